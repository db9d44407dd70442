"""Sums over the positions of two task vectors, which an engine can add up tile by tile."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _scales
from ._checks import FloatArray

# No float64 has an exponent beyond.
_FARTHEST = 1100


@dataclass(frozen=True, kw_only=True)
class ConflictSums:
    """Sums over positions for task vectors a and b. They add: tiles, then tensors.

    Where float64 would lose the squares of a or of b it is divided by a power of two first, and
    the power is kept: no ratio depends on the unit of the vectors.

    Raises ``ValueError`` for sums that are not finite, or negative where they cannot be.
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
    exponent_a: int = 0
    """e where 2^-e·a stands for a in the dot product and in ‖a‖², otherwise 0"""
    exponent_b: int = 0
    """The same for b. The sums of absolute values are over 2^e for the larger e, if above 0"""

    def __post_init__(self) -> None:
        for name in _SUMS:
            check = _checks.finite if name == "dot" else _checks.at_least_zero
            check(name, getattr(self, name))
        for name in ("exponent_a", "exponent_b"):
            if _checks.count(name, getattr(self, name), least=-_FARTHEST) > _FARTHEST:
                raise ValueError(f"{name} must be at most {_FARTHEST}")
        if self.sign_changes > self.positions:
            raise ValueError(f"{self.sign_changes} sign changes in {self.positions} positions")

    @classmethod
    def of(cls, a: ArrayLike, b: ArrayLike) -> "ConflictSums":
        """Return the sums for two arrays of one shape.

        Raises:
            ValueError: The shapes differ, or a value is NaN or infinite.
        """
        left, right = _checks.array("a", a), _checks.array("b", b)
        if left.shape != right.shape:
            raise ValueError(f"a and b must have one shape, got {left.shape} and {right.shape}")
        dot, squared_a, squared_b, exponents = _products(left, right)
        changed = np.sign(left) != np.sign(right)
        down = max(0, *exponents)
        if down:
            left, right = np.ldexp(left, -down), np.ldexp(right, -down)
        difference = np.abs(left - right)
        return cls(
            absolute_difference=float(difference.sum()),
            absolute_a=float(np.abs(left).sum()),
            absolute_b=float(np.abs(right).sum()),
            sign_changes=int(np.count_nonzero(changed)),
            conflicting=float(difference[changed].sum()),
            positions=left.size,
            dot=dot,
            squared_a=squared_a,
            squared_b=squared_b,
            exponent_a=exponents[0],
            exponent_b=exponents[1],
        )

    def __add__(self, other: "ConflictSums") -> "ConflictSums":
        if not isinstance(other, ConflictSums):
            return NotImplemented
        exponents = _common(self, other)
        one, two = self._over(*exponents), other._over(*exponents)
        added = {name: one[name] + two[name] for name in _SUMS}
        return ConflictSums(**added, exponent_a=exponents[0], exponent_b=exponents[1])

    def _over(self, exponent_a: int, exponent_b: int) -> dict[str, Any]:
        """The sums as they are with other exponents, none of them smaller."""
        found = {name: getattr(self, name) for name in _SUMS}
        a, b = self.exponent_a - exponent_a, self.exponent_b - exponent_b
        if not a and not b:
            return found
        down = max(0, self.exponent_a, self.exponent_b) - max(0, exponent_a, exponent_b)
        shifts = {"dot": a + b, "squared_a": 2 * a, "squared_b": 2 * b} | dict.fromkeys(
            ("absolute_difference", "absolute_a", "absolute_b", "conflicting"), down
        )
        return found | {
            name: float(_scales.rounded(name, found[name], shift)) for name, shift in shifts.items()
        }


# All fields but the exponents.
_SUMS = tuple(field.name for field in fields(ConflictSums) if "exponent" not in field.name)


def _common(first: ConflictSums, second: ConflictSums) -> tuple[int, int]:
    """Return the larger exponents; a vector that is zero has none that matters."""

    def larger(which: str) -> int:
        found = [
            getattr(sums, f"exponent_{which}")
            for sums in (first, second)
            if getattr(sums, f"squared_{which}") > 0
        ]
        return max(found, default=0)

    return larger("a"), larger("b")


def _products(left: FloatArray, right: FloatArray) -> tuple[float, float, float, tuple[int, int]]:
    """Return ⟨a, b⟩, ‖a‖² and ‖b‖² of vectors over powers of two, and the exponents of these."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = _sums_of_products(left, right)
    if all(_scales.trusted(np.abs(found))):
        return *found, (0, 0)
    exponents = _scales.exponent(left), _scales.exponent(right)
    scaled = _sums_of_products(np.ldexp(left, -exponents[0]), np.ldexp(right, -exponents[1]))
    # Vectors that are zero, or never both non-zero, do without.
    if all(_scales.trusted(found[k]) or not scaled[k] for k in (1, 2)) and not scaled[0]:
        return *found, (0, 0)
    return *scaled, exponents


def _sums_of_products(left: FloatArray, right: FloatArray) -> tuple[float, float, float]:
    products = (left * right, left * left, right * right)
    dot, squared_a, squared_b = (float(np.sum(each)) for each in products)
    return dot, squared_a, squared_b
