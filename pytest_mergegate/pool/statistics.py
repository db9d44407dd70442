"""What a look at every stored number of an expert finds: NaN, zeros, and the size of its change."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.changes import Change, Factors, Offset, Replacement, Rows
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.tensors import FloatArray, StoredTensors

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
    tensors = expert.tensors
    non_finite: set[str] = set()
    overflowing: set[str] = set()
    norms: dict[str, float | None] = {}
    for parameter, change in expert.changes.items():
        norms[parameter] = None
        if _is_misshapen(change, base):  # a finding of its own; there may be terabytes of it
            continue
        norm, bad = _norm(change, tensors, base)
        non_finite |= bad
        if norm is not None and not norm <= _LARGEST:
            overflowing.add(parameter)
        elif not bad:
            norms[parameter] = norm
    read = {key for change in expert.changes.values() for key in change.keys}
    others = filter(tensors.is_float, set(tensors) - read)
    return WeightStatistics(
        non_finite=frozenset(non_finite | _not_finite(tensors, others)),
        overflowing=frozenset(overflowing),
        norms=norms,
        unchanged=frozenset(parameter for parameter, norm in norms.items() if norm == 0),
        base_norms={p: base.norm(p) for p in norms if base.tensors.is_float(p)},
    )


def _not_finite(tensors: StoredTensors, keys: Iterable[str]) -> frozenset[str]:
    """Those of ``keys`` that hold a NaN or an infinity."""
    return frozenset(key for key in keys if not _square(tensors, key)[1])


def _norm(
    change: Change, tensors: StoredTensors, base: Base
) -> tuple[float | None, frozenset[str]]:
    """‖τ‖, None where unknown, and the tensors that are not finite."""
    match change:
        case Factors():
            return _factors_norm(change, tensors, base)
        case Offset(key=key, scale=scale):
            square, finite = _square(tensors, key)
            norm = abs(scale) * math.sqrt(square) if finite else None
            return norm, frozenset(() if finite else (key,))
        case Replacement(key=key, parameter=parameter):
            return _difference(tensors, key, base, parameter)
        case Rows():
            return _rows_norm(change, tensors, base)
        case _:
            return None, _not_finite(tensors, filter(tensors.is_float, change.keys))


def _factors_norm(
    change: Factors, tensors: StoredTensors, base: Base
) -> tuple[float | None, frozenset[str]]:
    # rank² numbers may be more than there is room for, where the rank is no saving
    wide = change.shape_a[0] > min(change.shape)
    size, bad = (_product_norm if wide else _grams_norm)(change, tensors)
    bad |= _not_finite(tensors, filter(None, (change.magnitude_key, change.base_key)))
    if bad:
        return None, bad
    norm = abs(change.scale) * size
    if change.magnitude_key is not None and norm == 0:
        # only the lengths may have been trained; those of the base tell
        return _lengths_norm(change, tensors, base), bad
    return norm, bad


def _grams_norm(change: Factors, tensors: StoredTensors) -> tuple[float, frozenset[str]]:
    """‖BA‖² = Σ (BᵀB) ∘ (AAᵀ); a NaN or an infinity shows on the diagonal of a Gram."""
    grams = {
        change.key_a: _gram(tensors.floats(change.key_a)),
        change.key_b: _gram(tensors.floats(change.key_b).T),
    }
    bad = frozenset(key for key, gram in grams.items() if not np.isfinite(gram.diagonal()).all())
    gram_a, gram_b = grams.values()
    return (0.0 if bad else math.sqrt(max(float((gram_a * gram_b).sum()), 0.0))), bad


def _product_norm(change: Factors, tensors: StoredTensors) -> tuple[float, frozenset[str]]:
    """‖BA‖, some rows of the product at a time."""
    if bad := _not_finite(tensors, (change.key_a, change.key_b)):
        return 0.0, bad
    a, b = tensors.floats(change.key_a).astype(np.float64), tensors.floats(change.key_b)
    rows = (b[start : start + _BLOCK] for start in range(0, len(b), _BLOCK))
    return math.sqrt(sum(float(np.square(row @ a).sum()) for row in rows)), frozenset()


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
    if change.magnitude_key is None or not base.tensors.is_float(change.parameter):
        return None
    weight = base.tensors.floats(change.parameter).astype(np.float64)
    own = np.linalg.norm(weight, axis=0 if change.transposed else 1)
    lengths = tensors.floats(change.magnitude_key).astype(np.float64).ravel()
    return float(np.linalg.norm(lengths - own)) if own.shape == lengths.shape else None


def _difference(
    tensors: StoredTensors, key: str, base: Base, parameter: str
) -> tuple[float | None, frozenset[str]]:
    own, header = tensors[key], base.tensors.get(parameter)
    if header is None or not header.is_float or header.shape != own.shape:
        return None, _not_finite(tensors, (key,))
    if own.size >= _MANY and own.dtype == header.dtype == "BF16":
        square = _compiled_square(tensors, key, base, parameter)
        if math.isfinite(square):
            return math.sqrt(square), frozenset()
    square, finite = _square(tensors, key, base.tensors.blocks(parameter))
    return (math.sqrt(square), frozenset()) if finite else (None, frozenset({key}))


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
    if not base.tensors.is_float(change.parameter):
        return None, frozenset()
    shape = base.tensors[change.parameter].shape
    if shape[1:] != rows.shape[1:] or max(change.rows, default=-1) >= shape[0]:
        return None, frozenset()
    own = base.tensors.floats(change.parameter)[list(change.rows)]
    return float(np.linalg.norm(rows - own)), frozenset()


def _square(
    tensors: StoredTensors, key: str, others: Iterable[FloatArray | float] | None = None
) -> tuple[float, bool]:
    """Σ (x - other)², NaN where a number is none, and whether every x is finite."""
    total, finite = 0.0, True
    zeros: Iterable[FloatArray | float] = itertools.repeat(0.0)
    for block, other in zip(tensors.blocks(key), others or zeros, strict=False):
        with np.errstate(invalid="ignore"):
            wide = block.astype(np.float64)
            wide -= other
            part = float(np.square(wide, out=wide).sum())
        finite = finite and (math.isfinite(part) or bool(np.isfinite(block).all()))
        total += part
    return total, finite


def _is_misshapen(change: Change, base: Base) -> bool:
    header = base.tensors.get(change.parameter)
    return (
        isinstance(change, (Factors, Replacement, Offset))
        and header is not None
        and change.shape != header.shape
    )
