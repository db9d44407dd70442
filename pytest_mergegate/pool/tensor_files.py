"""Safetensors files without torch: tensors as stored or in float32, whole or a run at a time."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.regular_files import label, open_regular
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.tensor_headers import read_headers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_mergegate.pool.tensor_headers import TensorHeader

    FloatArray = NDArray[np.float32]
    Numbers = NDArray[np.float32] | NDArray[np.float64]
    StoredArray = NDArray[np.generic]

_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_RUN, _RUNS = 1024, 64
"""Of a sample: most elements read in one go, and fewest places read from."""
_BLOCK = 1 << 16
"""Elements of a block: a few of them stay in a core's cache."""


class TensorReader:
    """One tensor in its open file, flat, as runs of elements; for one thread at a time."""

    def __init__(
        self, file: BufferedReader, header: TensorHeader, path: Path, expert: str | None
    ) -> None:
        self._file, self._header, self._path, self._expert = file, header, path, expert
        self.is_bfloat16 = header.dtype == "BF16"
        """Whether what is stored reads as uint16: the upper halves of float32."""
        self._stored = np.dtype(_STORED[header.dtype])
        self._buffer: StoredArray = np.empty(0, dtype=self._stored)
        self._floats: FloatArray = np.empty(0, dtype=np.float32)

    def read(self, start: int, stop: int) -> StoredArray:
        """Elements ``start`` to ``stop`` as they are stored, until the next call.

        Raises PoolError where the file has been written to.
        """
        if len(self._buffer) < stop - start:
            self._buffer = np.empty(stop - start, dtype=self._stored)
        self.read_into(self._buffer[: stop - start], start)
        return self._buffer[: stop - start]

    def read_into(self, run: StoredArray, start: int) -> None:
        """Fill ``run``, of the stored type, with the elements from ``start`` on."""
        self._file.seek(self._header.start + start * self._stored.itemsize)
        if self._file.readinto(run.view(np.uint8).data) < run.nbytes:
            raise _written_to(self._path, self._expert)

    def floats(self, start: int, stop: int) -> FloatArray:
        """The same in float32; float64 beyond its range becomes infinite."""
        stored = self.read(start, stop)
        if len(self._floats) < stop - start:
            self._floats = np.empty(stop - start, dtype=np.float32)
        floats = self._floats[: stop - start]
        if self.is_bfloat16:  # the upper half of a float32
            np.left_shift(stored, 16, out=floats.view("<u4"), dtype="<u4")
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                floats[:] = stored
        return floats

    def numbers(self, start: int, stop: int) -> Numbers:
        """The same without loss: float64 stays what it is."""
        if self._stored == np.float64:
            return self.read(start, stop)  # type: ignore[return-value]
        return self.floats(start, stop)


class TensorFile:
    """One safetensors file: its headers, and its tensors in float32 on demand.

    Holds neither numbers nor an open file, maps nothing into memory, and may be used from
    several threads. Raises PoolError for a file that is not sound safetensors.
    """

    def __init__(self, path: Path, expert: str | None = None) -> None:
        self.path = path
        self.expert = expert
        self._state = _state(path.stat()) if path.exists() else None
        self.headers = read_headers(path, expert=expert)

    def check_unchanged(self) -> None:
        """Raises PoolError where the file was written to since its headers were read."""
        if not self.path.exists() or _state(self.path.stat()) != self._state:
            raise _written_to(self.path, self.expert)

    def floats(self, name: str) -> FloatArray:
        """Tensor ``name``, in its shape.

        Raises PoolError for element types other than float64, float32, float16 and bfloat16.
        float64 beyond float32's range becomes infinite.
        """
        header = self.headers[name]
        with self.reader(name) as reader:
            return reader.floats(0, header.size).reshape(header.shape)

    def blocks(self, name: str, elements: int = _BLOCK) -> Iterator[FloatArray]:
        """Tensor ``name`` flat, in blocks of ``elements`` but for the last; each until the next.

        Raises PoolError as ``floats`` does.
        """
        size = self.headers[name].size
        with self.reader(name) as reader:
            for start in range(0, size, elements):
                yield reader.floats(start, min(start + elements, size))

    def sample(self, name: str, elements: int) -> FloatArray:
        """At most ``elements`` numbers of tensor ``name``, flat: the same ones every time.

        Where not all are taken, runs of neighbours are drawn evenly over the tensor, one from each
        of as many equal parts. Raises PoolError as ``floats`` does.
        """
        header = self.headers[name]
        if header.size <= elements:
            return self.floats(name).ravel()
        run = max(min(_RUN, elements // _RUNS), 1)
        starts = _spread(header.size // run, elements // run) * run
        with self.reader(name) as reader:
            return np.concatenate([reader.floats(int(s), int(s) + run).copy() for s in starts])

    @contextmanager
    def reader(self, name: str) -> Iterator[TensorReader]:
        """Tensor ``name`` in its file, opened for this. Raises PoolError as ``floats`` does."""
        header = self.headers[name]
        if not header.is_float:
            raise _not_floats(name, header.dtype, self.path, self.expert)
        with open_regular(self.path, expert=self.expert) as file:
            if _state(os.fstat(file.fileno())) != self._state:
                raise _written_to(self.path, self.expert)
            yield TensorReader(file, header, self.path, self.expert)


def _state(status: os.stat_result) -> tuple[int, int, int]:
    """What is another as soon as a file is written to, or replaced."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def _written_to(path: Path, expert: str | None) -> PoolError:
    return PoolError(
        f"{shown(path.name)} was written to while it was read",
        expert=expert,
        where=label(path),
        fix="run the gate again when nothing writes to it",
    )


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """``wanted`` of ``count`` indices, a random one from each of as many equal parts.

    At equal distances they could all fall on the same row of every attention head.
    """
    edges = np.arange(wanted + 1, dtype=np.int64) * count // wanted
    drawn = np.random.default_rng(0).random(wanted)
    return edges[:-1] + (drawn * np.diff(edges)).astype(np.int64)


def _not_floats(name: str, dtype: str, path: Path, expert: str | None) -> PoolError:
    return PoolError(
        f"tensor '{shown(name)}' is stored as {dtype}, which cannot be checked or merged",
        expert=expert,
        where=label(path),
        fix="save it in float32, float16 or bfloat16",
    )
