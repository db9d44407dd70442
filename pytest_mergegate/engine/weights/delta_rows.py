"""Task vectors a few rows at a time, in float64 and without torch: never a whole model at once."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.engine.weights.kernels import multiply, subtract
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.changes import (
    Change,
    Computed,
    ExpertFactors,
    Factors,
    Offset,
    Replacement,
    Rows,
)
from pytest_mergegate.pool.expert_factors import products
from pytest_mergegate.pool.tensor_readers import TensorReader
from pytest_mergegate.pool.tensors import StoredTensors

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32] | NDArray[np.float64]
RowReader = Callable[[int, int, Doubles], None]
"""Writes rows ``start`` to ``stop`` of τ to an array of [stop - start, columns]."""

_BLOCK = 1 << 16
"""Numbers of a task vector that are looked at together."""


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
        """(rows, columns)."""
        return len(self.left), self.right.shape[1]

    def write(self, start: int, stop: int, out: Doubles) -> None:
        """Write rows ``start`` to ``stop`` to ``out``."""
        multiply(self.left[start:stop].astype(np.float64), self.right, self.scale, out)


@dataclass(frozen=True, kw_only=True)
class DeltaRows:
    """τ of one parameter of one expert, as [rows, columns]."""

    shape: tuple[int, int]
    reader: Callable[[BaseRuns, ExitStack], RowReader]
    """What reads it, for one thread, as long as the files are open."""
    factors: FactorRows | None = None
    """Those whose product it is."""
    is_stored: bool = False
    """Whether it is a stored tensor less the base's."""


def delta_rows(
    change: Change, tensors: StoredTensors, base: Base, dense: Callable[[], Floats]
) -> DeltaRows:
    """The rows of what ``change`` makes of ``base``; ``dense`` gives τ where only a library can.

    Raises PoolError for a file that cannot be read.
    """
    match change:
        case Factors(magnitude_key=None, base_key=None):
            factors = _factor_rows(change, tensors)
            return DeltaRows(
                shape=factors.shape, reader=lambda _, __: factors.write, factors=factors
            )
        case ExpertFactors():
            return _experts_rows(change, tensors)
        case Factors():
            return _rescaled_rows(change, tensors, base.tensors)
        case Offset(key=key, scale=scale):
            return _held_rows(_numbers(tensors, key).astype(np.float64) * scale)
        case Replacement(key=key):
            return _stored_rows(tensors, key)
        case Rows():
            return _some_rows(change, tensors, base.tensors)
        case Computed():
            return _held_rows(dense())


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


def _stored_rows(tensors: StoredTensors, key: str) -> DeltaRows:
    """A stored tensor less the base's."""

    def reader(base: BaseRuns, files: ExitStack) -> RowReader:
        own = files.enter_context(tensors.reader(key))

        def read(start: int, stop: int, out: Doubles) -> None:
            first, last = start * out.shape[1], stop * out.shape[1]
            subtract(own.numbers(first, last), base.numbers(first, last), out.reshape(-1))

        return read

    return DeltaRows(shape=_matrix_shape(tensors[key].shape), reader=reader, is_stored=True)


def _held_rows(delta: Floats) -> DeltaRows:
    """τ itself."""
    shape = _matrix_shape(delta.shape)
    matrix = delta.reshape(shape)

    def read(start: int, stop: int, out: Doubles) -> None:
        out[:] = matrix[start:stop]

    return DeltaRows(shape=shape, reader=lambda _, __: read)


def _some_rows(change: Rows, tensors: StoredTensors, base: StoredTensors) -> DeltaRows:
    """Those rows of τ that are not zero."""
    order, width = np.argsort(change.rows), change.width
    delta = _numbers(tensors, change.key).astype(np.float64)[order]
    where = np.asarray(change.rows, dtype=np.int64)[order]
    with base.reader(change.parameter) as reader:
        for k, row in enumerate(where.tolist()):
            delta[k] -= reader.numbers(row * width, (row + 1) * width)

    def read(start: int, stop: int, out: Doubles) -> None:
        first, last = np.searchsorted(where, (start, stop))
        out[:] = 0.0
        out[where[first:last] - start] = delta[first:last]

    return DeltaRows(shape=_matrix_shape(base[change.parameter].shape), reader=lambda _, __: read)


def _experts_rows(change: ExpertFactors, tensors: StoredTensors) -> DeltaRows:
    """Products of the factors of one expert at a time."""
    _, rows, _ = change.shape

    def reader(_: BaseRuns, __: ExitStack) -> RowReader:
        make = products(change, tensors)
        held: dict[int, Doubles] = {}

        def read(start: int, stop: int, out: Doubles) -> None:
            row = start
            while row < stop:
                expert, first = divmod(row, rows)
                if expert not in held:
                    held.clear()
                    held[expert] = make(expert)
                count = min(rows - first, stop - row)
                out[row - start : row - start + count] = held[expert][first : first + count]
                row += count

        return read

    return DeltaRows(shape=_matrix_shape(change.shape), reader=reader)


def _rescaled_rows(change: Factors, tensors: StoredTensors, base: StoredTensors) -> DeltaRows:
    """τ = m · V / ‖V‖ - W₀ with V = W + scale · B A: DoRA, or factors with a base of their own.

    W is the base's, or the copy that the adapter carries; m, of every output, may be missing.
    """
    factors = _factor_rows(change, tensors)
    carried = (tensors, change.base_key) if change.base_key else (base, change.parameter)
    magnitudes: Doubles | None = None
    if change.magnitude_key is not None:
        magnitudes = _numbers(tensors, change.magnitude_key).astype(np.float64).ravel()

    def moved(files: ExitStack) -> RowReader:
        """What reads V."""
        stored, key = carried
        held = files.enter_context(stored.reader(key))

        def read(start: int, stop: int, out: Doubles) -> None:
            factors.write(start, stop, out)
            columns = out.shape[1]
            out += held.numbers(start * columns, stop * columns).reshape(out.shape)

        return read

    @cache
    def lengths_of_columns() -> Doubles:
        """‖V‖ of every column; rows tell their own."""
        count, columns = factors.shape
        squares = np.zeros(columns)
        step = max(_BLOCK // columns, 1)
        with ExitStack() as files:
            read = moved(files)
            for start in range(0, count, step):
                block = np.empty((min(step, count - start), columns))
                read(start, start + len(block), block)
                squares += np.square(block).sum(axis=0)
        return np.sqrt(squares)

    def reader(base_runs: BaseRuns, files: ExitStack) -> RowReader:
        read_moved = moved(files)

        def read(start: int, stop: int, out: Doubles) -> None:
            read_moved(start, stop, out)
            if magnitudes is not None and change.transposed:
                out *= magnitudes / lengths_of_columns()
            elif magnitudes is not None:
                out *= (magnitudes[start:stop] / np.linalg.norm(out, axis=1))[:, np.newaxis]
            columns = out.shape[1]
            out -= base_runs.numbers(start * columns, stop * columns).reshape(out.shape)

        return read

    return DeltaRows(shape=factors.shape, reader=reader)


def _factor_rows(change: Factors, tensors: StoredTensors) -> FactorRows:
    a, b = _numbers(tensors, change.key_a), _numbers(tensors, change.key_b)
    if change.transposed:
        a, b = b.T.copy(), a.T.copy()
    return FactorRows(left=b, right=a, scale=change.scale)


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """[rows, columns] of a parameter: a vector's numbers are rows of their own, and a stack's
    matrices lie one below the other."""
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (math.prod(shape), 1)


def _numbers(tensors: StoredTensors, key: str) -> Floats:
    """A whole tensor in its shape, without loss."""
    header = tensors[key]
    with tensors.reader(key) as reader:
        return reader.numbers(0, header.size).reshape(header.shape)
