"""Memory for weights: what files are mapped into is given back and read again later; what stands in
their place goes as a whole."""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4
"""MADV_DONTNEED; of a file's pages nothing is lost by it."""
_ALIGNED = 64
"""Bytes; what vector units read at a time."""


class MappedPages:
    """Where ``files`` are mapped in this process; nowhere where that cannot be told."""

    def __init__(self, files: Iterable[Path]) -> None:
        wanted = {str(file.resolve()) for file in files}
        self._ranges = sorted(_mapped(wanted))
        self._madvise = getattr(ctypes.CDLL(None), "madvise", None) if self._ranges else None

    def give_back(self, tensor: Tensor) -> None:
        """Let the pages of ``tensor`` go, if it lies in one of the files and nothing wrote to it.

        They come back from the file when they are read.
        """
        if self._madvise is None or tensor.device.type != "cpu":
            return
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page
        stop = (tensor.data_ptr() + tensor.nbytes) // page * page
        place = bisect_right(self._ranges, (start, 1 << 64)) - 1
        if place < 0 or stop <= start or stop > self._ranges[place][1]:
            return
        self._madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _DONT_NEED)


def give_back_freed() -> None:
    """Return to the system what was freed: weights that were in place lie between smaller things,
    and would stay with the process while others take their place elsewhere."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _MAPS.exists() else None
    if trim is not None:
        trim(0)


def room_for(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the same shapes and dtypes, with anything in them, in one piece of memory.

    It goes back to the system as a whole, and comes in large pages where the system has some.
    """
    starts = list(accumulate((_aligned(t.nbytes) for t in tensors.values()), initial=_ALIGNED))
    whole = torch.from_numpy(np.empty(starts[-1], dtype=np.uint8))
    shift = -whole.data_ptr() % _ALIGNED - _ALIGNED
    return {
        name: whole[start + shift :][: like.nbytes].view(like.dtype).view(like.shape)
        for start, (name, like) in zip(starts, tensors.items(), strict=False)
    }


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _mapped(files: set[str]) -> list[tuple[int, int]]:
    """First address, and the one behind the last, of every mapping of one of ``files``."""
    try:
        text = _MAPS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in files:
            first, last = fields[0].split("-")
            found.append((int(first, 16), int(last, 16)))
    return found
