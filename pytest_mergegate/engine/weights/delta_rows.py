"""Task vectors a few rows at a time, in float64 and without torch: never a whole model at once."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pytest_mergegate.engine.weights.kernels import multiply, subtract
from pytest_mergegate.pool.changes import Computed, Factors, Offset, Replacement, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.changes import Change
    from pytest_mergegate.pool.tensors import StoredTensors, TensorReader

    Doubles = NDArray[np.float64]
    Floats = NDArray[np.float32] | NDArray[np.float64]
    RowReader = Callable[[int, int, Doubles], None]
    """Writes rows ``start`` to ``stop`` of τ to an array of [stop - start, columns]."""

_BLOCK = 1 << 16
"""Numbers of a task vector that are looked at together."""


class DeltaRows(Protocol):
    """τ of one parameter of one expert, as [rows, columns]."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        ...

    def reader(self, base: BaseRuns, files: ExitStack) -> RowReader:
        """What reads it, for one thread, as long as ``files`` are open."""
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
            return _rescaled_rows(change, tensors, base.tensors)
        case Offset(key=key, scale=scale):
            return _matrix(_numbers(tensors, key).astype(np.float64) * scale)
        case Replacement(key=key):
            return StoredRows(tensors, key)
        case Rows():
            return _some_rows(change, tensors, base.tensors)
        case Computed():
            return _matrix(dense())


def whole_delta(rows: DeltaRows, base: StoredTensors, parameter: str) -> NDArray[np.float32]:
    """τ of one parameter in float32, in its shape, of which a few rows at a time are in float64."""
    count, columns = rows.shape
    found = np.empty((count, columns), np.float32)
    step = max(_BLOCK // max(columns, 1), 1)
    block = np.empty((min(step, count), columns))
    with ExitStack() as files:
        read = rows.reader(BaseRuns(base, parameter, files), files)
        for start in range(0, count, step):
            part = block[: min(step, count - start)]
            read(start, start + len(part), part)
            found[start : start + len(part)] = part
    return found.reshape(base[parameter].shape)


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

    def reader(self, base: BaseRuns, files: ExitStack) -> RowReader:
        """See DeltaRows."""
        return self.write

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
        return _matrix_shape(self.tensors[self.key].shape)

    def reader(self, base: BaseRuns, files: ExitStack) -> RowReader:
        """See DeltaRows."""
        own = files.enter_context(self.tensors.reader(self.key))

        def read(start: int, stop: int, out: Doubles) -> None:
            first, last = start * out.shape[1], stop * out.shape[1]
            subtract(own.numbers(first, last), base.numbers(first, last), out.reshape(-1))

        return read


@dataclass(frozen=True)
class HeldRows:
    """τ itself, or those of its rows that are not zero."""

    shape: tuple[int, int]
    delta: Floats
    """[len(where), columns]."""
    where: NDArray[np.int64]
    """Ascending."""

    def reader(self, base: BaseRuns, files: ExitStack) -> RowReader:
        """See DeltaRows."""

        def read(start: int, stop: int, out: Doubles) -> None:
            first, last = np.searchsorted(self.where, (start, stop))
            out[:] = 0.0
            out[self.where[first:last] - start] = self.delta[first:last]

        return read


@dataclass(frozen=True, kw_only=True)
class RescaledRows:
    """τ = m · V / ‖V‖ - W₀ with V = W + scale · B A: DoRA, or factors with a base of their own."""

    factors: FactorRows
    carried: StoredTensors
    """Holds W: the base, or the adapter that carries a copy."""
    carried_key: str
    magnitudes: Doubles | None
    """m of every output; None where only W is the adapter's own."""
    outputs_are_columns: bool

    @property
    def shape(self) -> tuple[int, int]:
        """See DeltaRows."""
        return self.factors.shape

    def reader(self, base: BaseRuns, files: ExitStack) -> RowReader:
        """See DeltaRows."""
        moved = self._moved(files)

        def read(start: int, stop: int, out: Doubles) -> None:
            moved(start, stop, out)
            if self.magnitudes is not None and self.outputs_are_columns:
                out *= self.magnitudes / self._column_lengths
            elif self.magnitudes is not None:
                lengths = np.linalg.norm(out, axis=1)
                out *= (self.magnitudes[start:stop] / lengths)[:, np.newaxis]
            columns = out.shape[1]
            out -= base.numbers(start * columns, stop * columns).reshape(out.shape)

        return read

    def _moved(self, files: ExitStack) -> RowReader:
        """What reads V."""
        carried = files.enter_context(self.carried.reader(self.carried_key))

        def read(start: int, stop: int, out: Doubles) -> None:
            self.factors.write(start, stop, out)
            columns = out.shape[1]
            out += carried.numbers(start * columns, stop * columns).reshape(out.shape)

        return read

    @cached_property
    def _column_lengths(self) -> Doubles:
        """‖V‖ of every column; rows tell their own."""
        count, columns = self.shape
        squares = np.zeros(columns)
        step = max(_BLOCK // columns, 1)
        with ExitStack() as files:
            read = self._moved(files)
            for start in range(0, count, step):
                block = np.empty((min(step, count - start), columns))
                read(start, start + len(block), block)
                squares += np.square(block).sum(axis=0)
        return np.sqrt(squares)


def _factor_rows(change: Factors, tensors: StoredTensors) -> FactorRows:
    a, b = _numbers(tensors, change.key_a), _numbers(tensors, change.key_b)
    if change.transposed:
        a, b = b.T.copy(), a.T.copy()
    return FactorRows(left=b, right=a, scale=change.scale)


def _rescaled_rows(change: Factors, tensors: StoredTensors, base: StoredTensors) -> RescaledRows:
    key = change.magnitude_key
    return RescaledRows(
        factors=_factor_rows(change, tensors),
        carried=base if change.base_key is None else tensors,
        carried_key=change.base_key or change.parameter,
        magnitudes=None if key is None else _numbers(tensors, key).astype(np.float64).ravel(),
        outputs_are_columns=change.transposed,
    )


def _some_rows(change: Rows, tensors: StoredTensors, base: StoredTensors) -> HeldRows:
    order, width = np.argsort(change.rows), change.width
    delta = _numbers(tensors, change.key).astype(np.float64)[order]
    where = np.asarray(change.rows, dtype=np.int64)[order]
    with base.reader(change.parameter) as reader:
        for k, row in enumerate(where.tolist()):
            delta[k] -= reader.numbers(row * width, (row + 1) * width)
    return HeldRows(_matrix_shape(base[change.parameter].shape), delta, where)


def _matrix(delta: Floats) -> HeldRows:
    shape = _matrix_shape(delta.shape)
    return HeldRows(shape, delta.reshape(shape), np.arange(shape[0]))


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """[rows, columns] of a parameter: a vector's numbers are rows of their own."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (math.prod(shape), 1)


def _numbers(tensors: StoredTensors, key: str) -> Floats:
    """A whole tensor in its shape, without loss."""
    header = tensors[key]
    with tensors.reader(key) as reader:
        return reader.numbers(0, header.size).reshape(header.shape)
