"""Task vectors a few rows at a time, in float64 and without torch: never a whole model at once."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pytest_mergegate.engine.weights.kernels import multiply, subtract
from pytest_mergegate.pool.changes import Computed, Factors, Offset, Replacement, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager, ExitStack

    from numpy.typing import NDArray

    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.changes import Change
    from pytest_mergegate.pool.tensors import StoredTensors, TensorReader

    Doubles = NDArray[np.float64]
    Floats = NDArray[np.float32] | NDArray[np.float64]
    RowReader = Callable[[int, int, Doubles], None]
    """Writes rows ``start`` to ``stop`` of τ to an array of [stop - start, columns]."""

_BLOCK = 1 << 16


class DeltaRows(Protocol):
    """τ of one parameter of one expert, as [rows, columns]."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        ...

    def reading(self, base: BaseRuns) -> AbstractContextManager[RowReader]:
        """What reads it, for one thread; files stay open meanwhile."""
        ...


class BaseRuns:
    """The base's numbers of one parameter: those that several experts ask for are read once, and
    a base that none of them asks for is not opened."""

    def __init__(self, base: StoredTensors, parameter: str, files: ExitStack) -> None:
        self._base, self._parameter, self._files = base, parameter, files
        self._where = (-1, -1)

    def numbers(self, start: int, stop: int) -> Floats:
        """Elements ``start`` to ``stop`` without loss, until others are asked for."""
        if self._where != (start, stop):
            self._run = self._reader.numbers(start, stop)
            self._where = (start, stop)
        return self._run

    @cached_property
    def _reader(self) -> TensorReader:
        return self._files.enter_context(self._base.reader(self._parameter))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """[rows, columns] of a parameter: a vector's numbers are rows of their own."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (math.prod(shape), 1)


def delta_rows(
    change: Change, tensors: StoredTensors, base: Base, dense: Callable[[], Floats]
) -> DeltaRows:
    """The rows of what ``change`` makes of ``base``; ``dense`` gives τ where only a library can.

    Raises PoolError for a file that cannot be read.
    """
    match change:
        case Factors(magnitude_key=None, base_key=None):
            return _factor_rows(change, tensors)
        case Factors():
            return _rescaled_rows(change, tensors, base)
        case Offset(key=key, scale=scale):
            return DenseRows(_numbers(tensors, key).astype(np.float64) * scale)
        case Replacement(key=key):
            return StoredRows(tensors, key)
        case Rows(key=key, parameter=parameter, rows=rows, width=width):
            return _some_rows(tensors, key, base.tensors, parameter, rows, width)
        case Computed():
            return DenseRows(dense())


@dataclass(frozen=True)
class FactorRows:
    """τ = scale · left @ right."""

    left: Floats
    """[rows, rank], as stored."""
    right: Floats
    """[rank, columns], as stored."""
    scale: float

    @property
    def rank(self) -> int:
        """Columns of ``left``, rows of ``right``."""
        return len(self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """See DeltaRows."""
        return len(self.left), self.right.shape[1]

    @contextmanager
    def reading(self, base: BaseRuns) -> Iterator[RowReader]:
        """See DeltaRows."""
        yield self.write

    def write(self, start: int, stop: int, out: Doubles) -> None:
        """Write rows ``start`` to ``stop`` to ``out``."""
        multiply(self.left[start:stop].astype(np.float64), self.right, self.scale, out)


@dataclass(frozen=True)
class StoredRows:
    """τ = a stored tensor less the base's."""

    tensors: StoredTensors
    key: str

    @property
    def dtype(self) -> str:
        """In safetensors' names."""
        return self.tensors[self.key].dtype

    @property
    def shape(self) -> tuple[int, int]:
        """See DeltaRows."""
        return matrix_shape(self.tensors[self.key].shape)

    @contextmanager
    def reading(self, base: BaseRuns) -> Iterator[RowReader]:
        """See DeltaRows."""
        with self.tensors.reader(self.key) as own:

            def read(start: int, stop: int, out: Doubles) -> None:
                first, last = start * out.shape[1], stop * out.shape[1]
                subtract(own.numbers(first, last), base.numbers(first, last), out.reshape(-1))

            yield read


@dataclass(frozen=True)
class DenseRows:
    """τ itself, in any shape."""

    delta: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """See DeltaRows."""
        return matrix_shape(self.delta.shape)

    @contextmanager
    def reading(self, base: BaseRuns) -> Iterator[RowReader]:
        """See DeltaRows."""
        rows = self.delta.reshape(self.shape)

        def read(start: int, stop: int, out: Doubles) -> None:
            out[:] = rows[start:stop]

        yield read


@dataclass(frozen=True)
class SomeRows:
    """Zero but for some rows."""

    shape: tuple[int, int]
    where: NDArray[np.int64]
    """Ascending."""
    delta: Doubles
    """[len(where), columns]."""

    @contextmanager
    def reading(self, base: BaseRuns) -> Iterator[RowReader]:
        """See DeltaRows."""

        def read(start: int, stop: int, out: Doubles) -> None:
            first, last = np.searchsorted(self.where, (start, stop))
            out[:] = 0.0
            out[self.where[first:last] - start] = self.delta[first:last]

        yield read


@dataclass(frozen=True)
class RescaledRows:
    """τ = m · V / ‖V‖ - W₀ with V = W + scale · B A: DoRA, or factors with a base of their own."""

    factors: FactorRows
    carried: StoredTensors
    """Holds W: the base, or the adapter that carries a copy."""
    carried_key: str
    magnitudes: Doubles | None
    """m of every output; None where only W is the adapter's own."""
    lengths: Doubles | None
    """‖V‖ of every output where outputs are columns; otherwise rows tell their own."""

    @property
    def shape(self) -> tuple[int, int]:
        """See DeltaRows."""
        return self.factors.shape

    @contextmanager
    def reading(self, base: BaseRuns) -> Iterator[RowReader]:
        """See DeltaRows."""
        with self.moved() as moved:

            def read(start: int, stop: int, out: Doubles) -> None:
                moved(start, stop, out)
                if self.magnitudes is not None and self.lengths is not None:
                    out *= self.magnitudes / self.lengths
                elif self.magnitudes is not None:
                    lengths = np.linalg.norm(out, axis=1)
                    out *= (self.magnitudes[start:stop] / lengths)[:, np.newaxis]
                columns = out.shape[1]
                out -= base.numbers(start * columns, stop * columns).reshape(out.shape)

            yield read

    @contextmanager
    def moved(self) -> Iterator[RowReader]:
        """What reads V."""
        with self.carried.reader(self.carried_key) as carried:

            def read(start: int, stop: int, out: Doubles) -> None:
                self.factors.write(start, stop, out)
                columns = out.shape[1]
                out += carried.numbers(start * columns, stop * columns).reshape(out.shape)

            yield read


def _factor_rows(change: Factors, tensors: StoredTensors) -> FactorRows:
    a, b = _numbers(tensors, change.key_a), _numbers(tensors, change.key_b)
    if change.transposed:
        a, b = b.T.copy(), a.T.copy()
    return FactorRows(left=b, right=a, scale=change.scale)


def _rescaled_rows(change: Factors, tensors: StoredTensors, base: Base) -> RescaledRows:
    own = change.base_key is None
    rows = RescaledRows(
        factors=_factor_rows(change, tensors),
        carried=base.tensors if own else tensors,
        carried_key=change.base_key or change.parameter,
        magnitudes=None,
        lengths=None,
    )
    if change.magnitude_key is None:
        return rows
    magnitudes = _numbers(tensors, change.magnitude_key).astype(np.float64).ravel()
    lengths = _column_lengths(rows) if change.transposed else None
    return replace(rows, magnitudes=magnitudes, lengths=lengths)


def _column_lengths(rows: RescaledRows) -> Doubles:
    """‖V‖ of every column."""
    count, columns = rows.shape
    squares = np.zeros(columns)
    step = max(_BLOCK // columns, 1)
    with rows.moved() as read:
        for start in range(0, count, step):
            block = np.empty((min(step, count - start), columns))
            read(start, start + len(block), block)
            squares += np.square(block).sum(axis=0)
    return np.sqrt(squares)


def _some_rows(
    tensors: StoredTensors,
    key: str,
    base: StoredTensors,
    parameter: str,
    rows: tuple[int, ...],
    width: int,
) -> SomeRows:
    order = np.argsort(rows)
    delta = _numbers(tensors, key).astype(np.float64)[order]
    where = np.asarray(rows, dtype=np.int64)[order]
    with base.reader(parameter) as reader:
        for k, row in enumerate(where.tolist()):
            delta[k] -= reader.numbers(row * width, (row + 1) * width)
    return SomeRows(matrix_shape(base[parameter].shape), where, delta)


def _numbers(tensors: StoredTensors, key: str) -> Floats:
    """A whole tensor in its shape, without loss."""
    header = tensors[key]
    with tensors.reader(key) as reader:
        return reader.numbers(0, header.size).reshape(header.shape)
