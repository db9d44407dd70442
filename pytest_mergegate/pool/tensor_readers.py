"""Readers of tensors in open safetensors files, with numpy alone: the safetensors library hands
bfloat16 to torch only."""

import bisect
import itertools
from collections.abc import Callable, Sequence
from io import BufferedReader

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool.tensor_headers import TensorHeader

FloatArray = NDArray[np.float32]
Numbers = NDArray[np.float32] | NDArray[np.float64]
StoredArray = NDArray[np.generic]
_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class TensorReader:
    """One tensor in its open file, flat, as runs of elements; for one thread at a time."""

    def __init__(
        self, opened: BufferedReader, header: TensorHeader, changed: Callable[[], PoolError]
    ) -> None:
        self._opened, self._start, self._changed = opened, header.start, changed
        self._is_bfloat16 = header.dtype == "BF16"  # read as uint16, the upper half of a float32
        self._stored = np.dtype(_STORED[header.dtype])

    def read(self, start: int, stop: int) -> StoredArray:
        """Elements ``start`` to ``stop`` as they are stored. Raises PoolError where the file has
        been written to."""
        run: StoredArray = np.empty(stop - start, dtype=self._stored)
        self.read_into(run, start)
        return run

    def read_into(self, run: StoredArray, start: int) -> None:
        """Fill ``run``, of the stored type, with the elements from ``start`` on."""
        self._opened.seek(self._start + start * self._stored.itemsize)
        if self._opened.readinto(run.view(np.uint8).data) < run.nbytes:
            raise self._changed()

    def floats(self, start: int, stop: int) -> FloatArray:
        """The same in float32; float64 beyond its range becomes infinite."""
        stored = self.read(start, stop)
        if self._is_bfloat16:
            return np.left_shift(stored, 16, dtype="<u4").view("<f4")
        with np.errstate(over="ignore", invalid="ignore"):
            return stored.astype(np.float32, copy=False)

    def numbers(self, start: int, stop: int) -> Numbers:
        """The same without loss: float64 stays what it is."""
        if self._stored == np.float64:
            return self.read(start, stop)  # type: ignore[return-value]
        return self.floats(start, stop)


class JoinedReader(TensorReader):
    """Several tensors, one behind the other."""

    def __init__(
        self,
        parts: Sequence[TensorReader],
        sizes: Sequence[int],
        header: TensorHeader,
        changed: Callable[[], PoolError],
        opened: BufferedReader,
    ) -> None:
        super().__init__(opened, header, changed)
        self._parts = parts
        self._ends = list(itertools.accumulate(sizes))

    def read_into(self, run: StoredArray, start: int) -> None:
        """Fill ``run``, of the stored type, with the elements from ``start`` on."""
        done = 0
        place = bisect.bisect_right(self._ends, start)
        while done < len(run):
            first = self._ends[place - 1] if place else 0
            count = min(self._ends[place] - (start + done), len(run) - done)
            self._parts[place].read_into(run[done : done + count], start + done - first)
            done += count
            place += 1
