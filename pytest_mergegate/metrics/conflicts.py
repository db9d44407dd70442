"""Parameter conflicts between two task vectors (THEORY section 2).

Everything follows from sums over positions, which add up tile by tile.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import Undefined


@dataclass(frozen=True, kw_only=True)
class ConflictSums:
    """Sums over positions for task vectors a and b. They add: tiles, then tensors.

    Raises ``ValueError`` for sums that are not finite, negative where they cannot be, or beyond
    what float64 can divide.
    """

    absolute_difference: float = 0.0
    """Σ|a - b|"""
    absolute_a: float = 0.0
    """Σ|a|"""
    absolute_b: float = 0.0
    """Σ|b|"""
    sign_changes: int = 0
    """Number of positions where sign(a) ≠ sign(b), with sign(0) = 0"""
    conflicting: float = 0.0
    """Σ|a - b| over those positions"""
    positions: int = 0
    """Number of positions"""
    dot: float = 0.0
    """⟨a, b⟩"""
    squared_a: float = 0.0
    """‖a‖²"""
    squared_b: float = 0.0
    """‖b‖²"""

    def __post_init__(self) -> None:
        for field in fields(self):
            check = _checks.finite if field.name == "dot" else _checks.at_least_zero
            _checks.require_sums(field.name, abs(check(field.name, getattr(self, field.name))))
        if self.sign_changes > self.positions:
            raise ValueError(f"{self.sign_changes} sign changes in {self.positions} positions")

    @classmethod
    def of(cls, a: ArrayLike, b: ArrayLike) -> "ConflictSums":
        """Return the sums for two arrays of one shape.

        Raises:
            ValueError: The shapes differ, or a value is NaN, infinite, or beyond what float64 can
                square.
        """
        left, right = _checks.squarable("a", a), _checks.squarable("b", b)
        if left.shape != right.shape:
            raise ValueError(f"a and b must have one shape, got {left.shape} and {right.shape}")
        changed = np.sign(left) != np.sign(right)
        difference = np.abs(left - right)
        return cls(
            absolute_difference=float(difference.sum()),
            absolute_a=float(np.abs(left).sum()),
            absolute_b=float(np.abs(right).sum()),
            sign_changes=int(np.count_nonzero(changed)),
            conflicting=float(difference[changed].sum()),
            positions=left.size,
            dot=float(np.sum(left * right)),
            squared_a=float(np.sum(left * left)),
            squared_b=float(np.sum(right * right)),
        )

    def __add__(self, other: "ConflictSums") -> "ConflictSums":
        if not isinstance(other, ConflictSums):
            return NotImplemented
        both = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return ConflictSums(**both)


@dataclass(frozen=True, kw_only=True)
class ParameterConflicts:
    """The conflict metrics of one pair of experts; None where a cosine is undefined."""

    magnitude_change_ratio: float
    """0 (equal) to 1 (opposite or disjoint)"""
    sign_change_ratio: float
    """0 to 1"""
    conflicting_magnitude_ratio: float
    """0 to 1, never above ``magnitude_change_ratio`` except for round-off"""
    cosine: float | None
    """-1 to 1, over all tensors at once"""
    cosine_mean: float | None
    """-1 to 1, the mean of the cosines per tensor"""
    cosine_reason: str | None = None
    """Why ``cosine`` is None"""
    cosine_mean_reason: str | None = None
    """Why ``cosine_mean`` is None"""


def magnitude_change_ratio(sums: ConflictSums) -> float:
    """Return Σ|a - b| / (Σ|a| + Σ|b|), in [0, 1].

    Raises:
        Undefined: ``zero_task_vectors``, both are zero.
    """
    return _share(sums, "absolute_difference")


def sign_change_ratio(sums: ConflictSums, *, positions: int | None = None) -> float:
    """Return the share of positions whose sign differs, in [0, 1].

    A zero facing a non-zero counts as a change.

    Args:
        sums: Sums over the positions that either expert may change.
        positions: The number to divide by in place of ``sums.positions``: all parameters of
            the base, for the ratio over the whole model.

    Raises:
        Undefined: ``zero_task_vectors``, both are zero.
        ValueError: ``positions`` is less than ``sums.positions``.
    """
    _require_magnitude(sums)
    if sums.positions == 0:
        raise ValueError("sums over no positions have no share of them")
    if positions is None:
        return sums.sign_changes / sums.positions
    return sums.sign_changes / _checks.count("positions", positions, least=sums.positions)


def conflicting_magnitude_ratio(sums: ConflictSums) -> float:
    """Return Σ|a - b| where the signs differ, over Σ|a| + Σ|b|, in [0, 1].

    Raises:
        Undefined: ``zero_task_vectors``, both are zero.
    """
    return _share(sums, "conflicting")


def cosine(sums: ConflictSums) -> float:
    """Return ⟨a, b⟩ / (‖a‖‖b‖), in [-1, 1].

    Raises:
        Undefined: ``zero_task_vectors``, one of them (or both) is zero.
    """
    _checks.instance("sums", sums, ConflictSums)
    if sums.squared_a == 0 or sums.squared_b == 0:
        raise Undefined("zero_task_vectors", "the cosine needs two task vectors that are not zero")
    norms = math.sqrt(sums.squared_a) * math.sqrt(sums.squared_b)
    return max(-1.0, min(1.0, sums.dot / norms))


def mean_cosine(tensors: Iterable[ConflictSums]) -> float:
    """Return the mean of the cosines per tensor, in [-1, 1].

    Tensors where either task vector is zero have no cosine and are left out.

    Raises:
        Undefined: ``no_shared_tensors``, no tensor has a cosine.
    """
    each = _checks.items("tensors", tensors)
    for sums in each:
        _checks.instance("tensors", sums, ConflictSums)
    cosines = [cosine(sums) for sums in each if sums.squared_a > 0 and sums.squared_b > 0]
    if not cosines:
        raise Undefined("no_shared_tensors", "no tensor is changed by both experts")
    return math.fsum(cosines) / len(cosines)


def parameter_conflicts(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> ParameterConflicts:
    """Return all conflict metrics of two dense task vectors, given tensor by tensor.

    Args:
        a: Tensors of one task vector, of any shapes.
        b: Tensors of the other in the same order; zeros where it lacks the tensor.

    Raises:
        Undefined: ``zero_task_vectors``, both are zero.
        ValueError: The tensors do not match, or a value is NaN or infinite.
    """
    a, b = _checks.items("a", a), _checks.items("b", b)
    if len(a) != len(b):
        raise ValueError(f"a and b must have the same tensors, got {len(a)} and {len(b)}")
    tensors = [ConflictSums.of(left, right) for left, right in zip(a, b, strict=True)]
    total = sum(tensors, ConflictSums())
    whole, whole_reason = _or_reason(lambda: cosine(total))
    mean, mean_reason = _or_reason(lambda: mean_cosine(tensors))
    return ParameterConflicts(
        magnitude_change_ratio=magnitude_change_ratio(total),
        sign_change_ratio=sign_change_ratio(total),
        conflicting_magnitude_ratio=conflicting_magnitude_ratio(total),
        cosine=whole,
        cosine_mean=mean,
        cosine_reason=whole_reason,
        cosine_mean_reason=mean_reason,
    )


def _share(sums: ConflictSums, part: str) -> float:
    """Return one of the sums over Σ|a| + Σ|b|."""
    _require_magnitude(sums)
    return min(1.0, float(getattr(sums, part)) / (sums.absolute_a + sums.absolute_b))


def _require_magnitude(sums: ConflictSums) -> None:
    _checks.instance("sums", sums, ConflictSums)
    if sums.absolute_a == 0 and sums.absolute_b == 0:
        raise Undefined("zero_task_vectors", "both task vectors are zero: there is no conflict")


def _or_reason(compute: Callable[[], float]) -> tuple[float | None, str | None]:
    try:
        return compute(), None
    except Undefined as undefined:
        return None, undefined.reason
