"""Weights that lie in files of their own, where memory would not hold them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class SpilledWeights(MutableMapping[str, "Tensor"]):
    """Tensors in a temporary folder, each mapped from its file when it is asked for."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mergegate-"))
        # a TemporaryDirectory would warn of being cleaned up with its owner
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._held: dict[str, tuple[Path, torch.Size, torch.dtype]] = {}

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        known = self._held.get(name)
        file = known[0] if known else self._folder / str(len(self._held))
        tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tofile(file)
        self._held[name] = file, tensor.shape, tensor.dtype

    def __getitem__(self, name: str) -> Tensor:
        file, shape, dtype = self._held[name]
        flat = torch.from_file(str(file), shared=False, size=shape.numel(), dtype=dtype)
        return flat.reshape(shape)

    def __delitem__(self, name: str) -> None:
        self._held.pop(name)[0].unlink()

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
