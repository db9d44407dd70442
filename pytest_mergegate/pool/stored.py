"""The tensors of one or several safetensors files, by name, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_mergegate.pool.tensor_files import TensorFile
from pytest_mergegate.pool.tensor_headers import TensorHeader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pytest_mergegate.pool.tensor_files import TensorReader

    FloatArray = NDArray[np.float32]


class StoredTensors(Mapping[str, TensorHeader]):
    """Names to headers, and the numbers behind them on demand; holds no numbers itself.

    Raises PoolError for a file that is not sound safetensors.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        expert: str | None = None,
    ) -> None:
        self.files = tuple(files)
        self._entries: dict[str, tuple[TensorFile, str]] = {}
        for path in files:
            file = TensorFile(path, expert)
            self._entries |= {key: (file, key) for key in file.headers}

    def __getitem__(self, name: str) -> TensorHeader:
        file, key = self._entries[name]
        return file.headers[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def renamed(self, rename: Callable[[str], str | None]) -> StoredTensors:
        """The same tensors under other names; without those that ``rename`` gives none."""
        other = StoredTensors(())
        other.files = self.files
        names = ((rename(name), entry) for name, entry in self._entries.items())
        other._entries = {name: entry for name, entry in names if name is not None}
        return other

    def check_unchanged(self, *names: str) -> None:
        """Raises PoolError where a file that holds one of ``names`` (default: any of them) was
        written to since its headers were read."""
        files = [self._entries[name][0] for name in names or self._entries]
        for file in {id(file): file for file in files}.values():
            file.check_unchanged()

    def file_of(self, name: str) -> Path:
        """The file that holds tensor ``name``."""
        return self._entries[name][0].path

    def floats(self, name: str) -> FloatArray:
        """Tensor ``name`` in float32. Raises PoolError for element types that are no floats."""
        file, key = self._entries[name]
        return file.floats(key)

    def reader(self, name: str) -> AbstractContextManager[TensorReader]:
        """Tensor ``name`` in its open file. Raises PoolError as ``floats`` does."""
        file, key = self._entries[name]
        return file.reader(key)

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """Tensor ``name`` as flat float32 blocks of equal size but for the last."""
        file, key = self._entries[name]
        return file.blocks(key)

    def sample(self, name: str, elements: int) -> FloatArray:
        """At most ``elements`` numbers of tensor ``name``, evenly spread, in float32."""
        file, key = self._entries[name]
        return file.sample(key, elements)
