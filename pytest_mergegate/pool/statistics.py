"""What a look at every stored number of an expert finds: NaN, zeros, and the size of its change."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.changes import Change, ExpertFactors, Factors, Offset, Replacement, Rows
from pytest_mergegate.pool.expert_factors import squares
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.tensor_readers import FloatArray
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
    tensors = expert.tensors
    look = _Look(tensors, base)
    overflowing: set[str] = set()
    norms: dict[str, float | None] = {}
    for parameter, change in expert.changes.items():
        # of another shape: a finding of its own; there may be terabytes of it
        norm = None if _is_misshapen(change, base) else look.norm(change)
        if norm is not None and not norm <= _LARGEST:
            overflowing.add(parameter)
            norm = None
        norms[parameter] = norm
    read = {key for change in expert.changes.values() for key in change.keys}
    look.are_finite(filter(tensors.is_float, set(tensors) - read))
    return WeightStatistics(
        non_finite=frozenset(look.non_finite),
        overflowing=frozenset(overflowing),
        norms=norms,
        unchanged=frozenset(parameter for parameter, norm in norms.items() if norm == 0),
        base_norms={p: base.norm(p) for p in norms if base.tensors.is_float(p)},
    )


class _Look:
    """One expert's numbers, and those of its base; which tensors are not finite is noted."""

    def __init__(self, tensors: StoredTensors, base: Base) -> None:
        self._tensors, self._base = tensors, base
        self.non_finite: set[str] = set()

    def are_finite(self, keys: Iterable[str]) -> bool:
        """Whether none of ``keys`` holds a NaN or an infinity."""
        return not [key for key in keys if self._square(key) is None]

    def norm(self, change: Change) -> float | None:
        """‖τ‖; None where it is unknown, or a tensor is not finite."""
        match change:
            case Factors():
                return self._of_factors(change)
            case ExpertFactors():
                return self._of_experts(change)
            case Offset(key=key, scale=scale):
                square = self._square(key)
                return None if square is None else abs(scale) * math.sqrt(square)
            case Replacement(key=key, parameter=parameter):
                return self._difference(key, parameter)
            case Rows():
                return self._of_rows(change)
            case _:
                self.are_finite(filter(self._tensors.is_float, change.keys))
                return None

    def _of_factors(self, change: Factors) -> float | None:
        # rank² numbers may be more than there is room for, where the rank is no saving
        wide = change.shape_a[0] > min(change.shape)
        size = (self._product_norm if wide else self._grams_norm)(change)
        others = self.are_finite(filter(None, (change.magnitude_key, change.base_key)))
        if size is None or not others:
            return None
        norm = abs(change.scale) * size
        if change.magnitude_key is None or norm != 0:
            return norm
        # only the lengths may have been trained; those of the base tell
        if not self._base.tensors.is_float(change.parameter):
            return None
        weight = self._base.tensors.floats(change.parameter).astype(np.float64)
        own = np.linalg.norm(weight, axis=0 if change.transposed else 1)
        lengths = self._tensors.floats(change.magnitude_key).astype(np.float64).ravel()
        return float(np.linalg.norm(lengths - own)) if own.shape == lengths.shape else None

    def _of_experts(self, change: ExpertFactors) -> float | None:
        if not self.are_finite(change.keys):
            return None
        return math.sqrt(sum(square for _, square in squares(change, self._tensors)))

    def _grams_norm(self, change: Factors) -> float | None:
        """‖BA‖² = Σ (BᵀB) ∘ (AAᵀ); a NaN or an infinity shows on the diagonal of a Gram."""
        gram_a = _gram(self._tensors.floats(change.key_a))
        gram_b = _gram(self._tensors.floats(change.key_b).T)
        grams = ((change.key_a, gram_a), (change.key_b, gram_b))
        bad = {key for key, gram in grams if not np.isfinite(gram.diagonal()).all()}
        self.non_finite |= bad
        return None if bad else math.sqrt(max(float((gram_a * gram_b).sum()), 0.0))

    def _product_norm(self, change: Factors) -> float | None:
        """‖BA‖, some rows of the product at a time."""
        if not self.are_finite((change.key_a, change.key_b)):
            return None
        a = self._tensors.floats(change.key_a).astype(np.float64)
        b = self._tensors.floats(change.key_b)
        rows = (b[start : start + _BLOCK] for start in range(0, len(b), _BLOCK))
        return math.sqrt(sum(float(np.square(row @ a).sum()) for row in rows))

    def _difference(self, key: str, parameter: str) -> float | None:
        own, header = self._tensors[key], self._base.tensors.get(parameter)
        if header is None or not header.is_float or header.shape != own.shape:
            self.are_finite([key])
            return None
        square: float | None = None
        if own.size >= _MANY and own.dtype == header.dtype == "BF16":
            square = self._compiled_square(key, parameter)
        if square is None or not math.isfinite(square):
            square = self._square(key, self._base.tensors.blocks(parameter))
        return None if square is None else math.sqrt(square)

    def _compiled_square(self, key: str, parameter: str) -> float:
        """‖τ‖² of a large tensor; not finite where one of its numbers, or the base's, is not."""
        from pytest_mergegate.pool.bfloat16 import squared_distance

        total, size = 0.0, self._tensors[key].size
        with self._tensors.reader(key) as own, self._base.tensors.reader(parameter) as other:
            for start in range(0, size, _RUN):
                stop = min(start + _RUN, size)
                run, base_run = own.read(start, stop), other.read(start, stop)
                total += squared_distance(run.view(np.uint16), base_run.view(np.uint16))
        return total

    def _of_rows(self, change: Rows) -> float | None:
        rows = self._tensors.floats(change.key).astype(np.float64)
        if not np.isfinite(rows).all():
            self.non_finite.add(change.key)
            return None
        header = self._base.tensors.get(change.parameter)
        if header is None or not header.is_float or header.shape[1:] != rows.shape[1:]:
            return None
        if max(change.rows, default=-1) >= header.shape[0]:
            return None
        own = self._base.tensors.floats(change.parameter)[list(change.rows)]
        return float(np.linalg.norm(rows - own))

    def _square(
        self, key: str, others: Iterable[FloatArray | float] = itertools.repeat(0.0)
    ) -> float | None:
        """Σ (x - other)², NaN where an other is none; None where an x is not finite."""
        total, finite = 0.0, True
        for block, other in zip(self._tensors.blocks(key), others, strict=False):
            with np.errstate(invalid="ignore"):
                wide = block.astype(np.float64)
                wide -= other
                part = float(np.square(wide, out=wide).sum())
            finite = finite and (math.isfinite(part) or bool(np.isfinite(block).all()))
            total += part
        if finite:
            return total
        self.non_finite.add(key)
        return None


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


def _is_misshapen(change: Change, base: Base) -> bool:
    header = base.tensors.get(change.parameter)
    return (
        isinstance(change, (Factors, Replacement, Offset))
        and header is not None
        and change.shape != header.shape
    )
