"""What a look at every stored number of an expert finds: NaN, zeros, and the size of its change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.pool.changes import Factors, Offset, Replacement, Rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.changes import Change
    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.pool.tensor_headers import TensorHeader
    from pytest_mergegate.pool.tensors import StoredTensors

NEGLIGIBLE = 1e-6
"""Of ‖W‖: a change that is smaller is lost in the rounding of a stored merge."""
_LARGEST = float(np.finfo(np.float32).max)
_BLOCK = 1024
_MANY, _RUN = 1 << 20, 1 << 18
"""Elements from which compiled loops pay, and how many of them are read at a time."""
_SMALL = 1e-25
"""A sum of squares from which float32 may have lost some of them."""
Squares = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class WeightStatistics:
    """Of one expert's numbers."""

    non_finite: frozenset[str]
    """Tensors with a NaN or an infinity."""
    overflowing: frozenset[str]
    """Parameters whose τ is too large for float32, though its tensors are finite."""
    norms: Mapping[str, float | None]
    """‖τ‖ (Frobenius) by parameter of the base; under DoRA that of s·B·A; None where only PEFT
    can work τ out, or where it is not finite or has no counterpart in the base."""
    unchanged: frozenset[str]
    """Parameters whose τ is exactly zero."""
    base_norms: Mapping[str, float]
    """‖W‖ of the same parameters in the base, estimated from a sample of its rows."""

    @property
    def relative_norm(self) -> float | None:
        """‖τ‖ / ‖W‖ over the parameters with both; None where there is none."""
        known = [name for name, norm in self.norms.items() if norm is not None]
        change = math.hypot(*(self.norms[name] or 0.0 for name in known))
        base = math.hypot(*(self.base_norms.get(name, 0.0) for name in known))
        return change / base if known and base > 0 else None


def weight_statistics(expert: Expert, base: Base) -> WeightStatistics:
    """Read every tensor of ``expert`` once. Raises PoolError for types that are no floats."""
    non_finite: set[str] = set()
    overflowing: set[str] = set()
    norms: dict[str, float | None] = {}
    unchanged: set[str] = set()
    for parameter, change in expert.changes.items():
        if _is_misshapen(change, base):  # a finding of its own; there may be terabytes of it
            norms[parameter] = None
            continue
        norm, bad = _norm(change, expert.tensors, base)
        non_finite |= bad
        if norm is not None and not norm <= _LARGEST:
            overflowing.add(parameter)
            norm = None
        norms[parameter] = None if bad else norm
        if norm == 0 and not bad:
            unchanged.add(parameter)
    for key in set(expert.tensors) - {key for c in expert.changes.values() for key in c.keys}:
        if _is_float(expert.tensors, key) and not _square(expert.tensors, key)[1]:
            non_finite.add(key)
    return WeightStatistics(
        non_finite=frozenset(non_finite),
        overflowing=frozenset(overflowing),
        norms=norms,
        unchanged=frozenset(unchanged),
        base_norms={p: base.norm(p) for p in norms if _is_float(base.tensors, p)},
    )


def _norm(
    change: Change, tensors: StoredTensors, base: Base
) -> tuple[float | None, frozenset[str]]:
    """‖τ‖, None where unknown, and the tensors that are not finite."""
    match change:
        case Factors():
            return _factors_norm(change, tensors, base)
        case Offset(key=key, scale=scale):
            square, finite = _square(tensors, key)
            return abs(scale) * math.sqrt(square), frozenset() if finite else frozenset({key})
        case Replacement(key=key, parameter=parameter):
            return _difference(tensors, key, base, parameter)
        case Rows():
            return _rows_norm(change, tensors, base)
        case _:
            floats = [key for key in change.keys if _is_float(tensors, key)]
            return None, frozenset(key for key in floats if not _square(tensors, key)[1])


def _factors_norm(
    change: Factors, tensors: StoredTensors, base: Base
) -> tuple[float | None, frozenset[str]]:
    # rank² numbers may be more than there is room for, where the rank is no saving
    wide = change.shape_a[0] > min(change.shape)
    size, bad = (_product_norm if wide else _grams_norm)(change, tensors)
    for key in (change.magnitude_key, change.base_key):
        if key is not None and not _square(tensors, key)[1]:
            bad.add(key)
    if bad:
        return None, frozenset(bad)
    norm = abs(change.scale) * size
    if change.magnitude_key is not None and norm == 0:
        # only the lengths may have been trained; those of the base tell
        return _lengths_norm(change, tensors, base), frozenset()
    return norm, frozenset()


def _grams_norm(change: Factors, tensors: StoredTensors) -> tuple[float, set[str]]:
    """‖BA‖² = Σ (BᵀB) ∘ (AAᵀ); a NaN or an infinity shows on the diagonal of a Gram."""
    gram_a = _gram(tensors.floats(change.key_a))
    gram_b = _gram(tensors.floats(change.key_b).T)
    bad = {
        key
        for key, gram in ((change.key_a, gram_a), (change.key_b, gram_b))
        if not np.isfinite(np.diagonal(gram)).all()
    }
    return (0.0 if bad else math.sqrt(max(float((gram_a * gram_b).sum()), 0.0))), bad


def _product_norm(change: Factors, tensors: StoredTensors) -> tuple[float, set[str]]:
    """‖BA‖, some rows of the product at a time."""
    bad = {key for key in (change.key_a, change.key_b) if not _square(tensors, key)[1]}
    if bad:
        return 0.0, bad
    a, b = tensors.floats(change.key_a).astype(np.float64), tensors.floats(change.key_b)
    rows = (b[start : start + _BLOCK] for start in range(0, len(b), _BLOCK))
    return math.sqrt(sum(float(np.square(row @ a).sum()) for row in rows)), bad


def _gram(rows: NDArray[np.float32]) -> Squares:
    """Inner products of the rows, in float64 but within short blocks, where float32 is fast."""
    total = np.zeros((len(rows), len(rows)))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, rows.shape[1], _BLOCK):
            block = rows[:, start : start + _BLOCK]
            total += block @ block.T
    if np.isfinite(total).all() and np.diagonal(total).min(initial=1.0) > _SMALL:
        return total
    wide = rows.astype(np.float64)  # squares may be beyond float32 where the numbers are not
    found: Squares = wide @ wide.T
    return found


def _lengths_norm(change: Factors, tensors: StoredTensors, base: Base) -> float | None:
    if change.magnitude_key is None or not _is_float(base.tensors, change.parameter):
        return None
    weight = base.tensors.floats(change.parameter).astype(np.float64)
    own = np.linalg.norm(weight, axis=0 if change.transposed else 1)
    lengths = tensors.floats(change.magnitude_key).astype(np.float64).ravel()
    return float(np.linalg.norm(lengths - own)) if own.shape == lengths.shape else None


def _difference(
    tensors: StoredTensors, key: str, base: Base, parameter: str
) -> tuple[float | None, frozenset[str]]:
    header = base.tensors.get(parameter)
    known = header is not None and header.shape == tensors[key].shape
    known = known and _is_float(base.tensors, parameter)
    if known and tensors[key].size >= _MANY and _are_bfloat16(tensors[key], header):
        square = _compiled_square(tensors, key, base, parameter)
        if math.isfinite(square):
            return math.sqrt(square), frozenset()
    square, finite = 0.0, True
    theirs = base.tensors.blocks(parameter) if known else None
    difference = np.empty(0, dtype=np.float32)
    for own in tensors.blocks(key):
        other = None if theirs is None else next(theirs)
        if len(difference) < len(own):  # a new array for every block would take most of the time
            difference = np.empty_like(own)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.subtract(own, 0 if other is None else other, out=difference[: len(own)])
        part = _quick_square(moved)
        if part is None:  # not even float32's short sums are sound: tell why, in float64
            wide = own.astype(np.float64)
            finite = finite and bool(np.isfinite(wide).all())
            wide -= 0.0 if other is None else other
            part = float(wide @ wide)
        square += part
    bad = frozenset() if finite else frozenset({key})
    return (math.sqrt(square) if known and finite else None), bad


def _are_bfloat16(*headers: TensorHeader | None) -> bool:
    return all(header is not None and header.dtype == "BF16" for header in headers)


def _compiled_square(tensors: StoredTensors, key: str, base: Base, parameter: str) -> float:
    """‖τ‖² of a large tensor; not finite where one of its numbers, or of the base's, is not."""
    from pytest_mergegate.pool.bfloat16 import squared_distance

    total, size = 0.0, tensors[key].size
    with tensors.reader(key) as own, base.tensors.reader(parameter) as other:
        for start in range(0, size, _RUN):
            stop = min(start + _RUN, size)
            run, base_run = own.read(start, stop), other.read(start, stop)
            total += squared_distance(run.view(np.uint16), base_run.view(np.uint16))
    return total


def _rows_norm(
    change: Rows, tensors: StoredTensors, base: Base
) -> tuple[float | None, frozenset[str]]:
    rows = tensors.floats(change.key).astype(np.float64)
    if not np.isfinite(rows).all():
        return None, frozenset({change.key})
    header = base.tensors.get(change.parameter)
    if header is None or not _is_float(base.tensors, change.parameter):
        return None, frozenset()
    if header.shape[1:] != rows.shape[1:] or max(change.rows) >= header.shape[0]:
        return None, frozenset()
    own = base.tensors.floats(change.parameter)[list(change.rows)]
    return float(np.linalg.norm(rows - own)), frozenset()


def _square(tensors: StoredTensors, key: str) -> tuple[float, bool]:
    """Σ x² and whether every x is finite."""
    total, finite = 0.0, True
    for block in tensors.blocks(key):
        part = _quick_square(block)
        if part is None:
            wide = block.astype(np.float64)
            finite = finite and bool(np.isfinite(wide).all())
            part = float(wide @ wide)
        total += part if finite else 0.0
    return total, finite


def _quick_square(numbers: NDArray[np.float32]) -> float | None:
    """Σ x², in float64 but within short rows; None where float32 is too narrow for one of them."""
    whole = numbers.size // _BLOCK * _BLOCK
    total = 0.0
    for rows in (numbers[:whole].reshape(-1, _BLOCK), numbers[np.newaxis, whole:]):
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.vecdot(rows, rows)
        total += float(squares.sum(dtype=np.float64))
        if rows[squares <= _SMALL].any():
            return None
    return total if math.isfinite(total) else None


def _is_misshapen(change: Change, base: Base) -> bool:
    header = base.tensors.get(change.parameter)
    return (
        isinstance(change, (Factors, Replacement, Offset))
        and header is not None
        and change.shape != header.shape
    )


def _is_float(tensors: StoredTensors, key: str) -> bool:
    return key in tensors and tensors[key].is_float
