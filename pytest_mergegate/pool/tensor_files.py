"""Safetensors files without torch: tensors in float32, one or one block at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pytest_mergegate.errors import PoolError
from pytest_mergegate.pool.regular_files import label, open_regular, shown
from pytest_mergegate.pool.tensor_headers import read_headers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_RUN, _RUNS = 1024, 64
"""Of a sample: most elements read in one go, and fewest places read from."""


class TensorFile:
    """One safetensors file: its headers, and its tensors in float32 on demand.

    Holds neither numbers nor an open file, maps nothing into memory, and may be used from
    several threads. Raises PoolError for a file that is not sound safetensors.
    """

    def __init__(self, path: Path, expert: str | None = None) -> None:
        self.path = path
        self.expert = expert
        self.headers = read_headers(path, expert=expert)

    def floats(self, name: str) -> FloatArray:
        """Tensor ``name``, in its shape.

        Raises PoolError for element types other than float64, float32, float16 and bfloat16.
        float64 beyond float32's range becomes infinite.
        """
        header = self.headers[name]
        with self._open() as file:
            return self._read(file, name, 0, header.size).reshape(header.shape)

    def blocks(self, name: str, elements: int = 1 << 20) -> Iterator[FloatArray]:
        """Tensor ``name`` flat, in blocks of ``elements`` but for the last.

        Raises PoolError as ``floats`` does.
        """
        size = self.headers[name].size
        with self._open() as file:
            for start in range(0, size, elements):
                yield self._read(file, name, start, min(start + elements, size))

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
        with self._open() as file:
            return np.concatenate([self._read(file, name, int(s), int(s) + run) for s in starts])

    def _open(self) -> BinaryIO:
        return open_regular(self.path, expert=self.expert)

    def _read(self, file: BinaryIO, name: str, start: int, stop: int) -> FloatArray:
        """Elements ``start`` to ``stop`` of tensor ``name``, flat."""
        header = self.headers[name]
        if not header.is_float:
            raise _not_floats(name, header.dtype, self.path, self.expert)
        stored = np.dtype(_STORED[header.dtype])
        file.seek(header.start + start * stored.itemsize)
        data = file.read((stop - start) * stored.itemsize)
        if len(data) < (stop - start) * stored.itemsize:
            raise PoolError(
                f"{shown(self.path.name)} became shorter while it was read",
                expert=self.expert,
                where=label(self.path),
                fix="run the gate again when nothing writes to it",
            )
        return _as_floats(np.frombuffer(data, dtype=stored), header.dtype)


def _as_floats(stored: NDArray[np.generic], dtype: str) -> FloatArray:
    if dtype == "BF16":  # the upper half of a float32
        bits = np.empty(stored.size, dtype="<u4")
        np.left_shift(stored, 16, out=bits, dtype="<u4")
        return bits.view("<f4").astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float32)


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
