"""The loops over single numbers, compiled. All sums are in float64."""

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.compiled import compiled
from pytest_mergegate.metrics.pairwise import CONFLICTING, DIFFERENCE, DOT, SIGN_CHANGES

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32] | NDArray[np.float64]

_SPAN = 512
"""Elements of two task vectors that stay in the fastest cache while they are compared."""


@compiled
def subtract(own: Floats, base: Floats, out: Doubles) -> None:
    """own - base in float64; all flat and of one size."""
    for k in range(own.shape[0]):
        out[k] = np.float64(own[k]) - np.float64(base[k])


@compiled
def multiply(left: Doubles, right: Floats, scale: float, out: Doubles) -> None:
    """scale · left @ right: [rows, rank] @ [rank, columns] -> [rows, columns].

    The scale comes last: what cancels out in a product is exactly zero then, whatever the scale.
    """
    rows, rank = left.shape
    out[:] = 0.0
    for start in range(0, right.shape[1], _SPAN):
        stop = min(start + _SPAN, right.shape[1])
        for row in range(rows):
            sums = out[row, start:stop]
            for k in range(0, rank - 3, 4):
                u, v = right[k, start:stop], right[k + 1, start:stop]
                x, y = right[k + 2, start:stop], right[k + 3, start:stop]
                _add_four(left[row, k : k + 4], u, v, x, y, sums)
            for k in range(rank - rank % 4, rank):
                _add_scaled(left[row, k], right[k, start:stop], sums)
    for row in range(rows):
        for c in range(out.shape[1]):
            out[row, c] *= scale


@compiled
def _add_four(factors: Doubles, u: Floats, v: Floats, x: Floats, y: Floats, out: Doubles) -> None:
    """Four rows at once, so that each number of ``out`` is read and written once for them."""
    a, b, c, d = factors[0], factors[1], factors[2], factors[3]
    for n in range(out.shape[0]):
        upper = a * np.float64(u[n]) + b * np.float64(v[n])
        lower = c * np.float64(x[n]) + d * np.float64(y[n])
        out[n] += upper + lower


@compiled
def _add_scaled(factor: float, numbers: Floats, out: Doubles) -> None:
    for c in range(numbers.shape[0]):
        out[c] += factor * np.float64(numbers[c])


@compiled
def add_pairs(deltas: Doubles, sums: Doubles, with_dots: bool) -> None:
    """Add what the rows of ``deltas`` have in conflict to ``sums``, for all pairs at once.

    ``deltas`` is [experts, elements] in float64; ``sums`` [4, experts, experts] in float64, of
    which the upper triangle is written: Σ|a - b|, the same where the signs differ, the number of
    those positions, and ⟨a, b⟩ (only ``with_dots``). On the diagonal every task vector meets
    zero: Σ|a| twice, its non-zeros, and, with or without dots, ‖a‖².
    """
    experts, elements = deltas.shape
    # side by side: rows far apart evict each other from caches
    near, signs = np.empty((experts, _SPAN)), np.empty((experts, _SPAN))
    for start in range(0, elements, _SPAN):
        span = min(_SPAN, elements - start)
        for i in range(experts):
            size, changed = _take(deltas[i, start : start + span], near[i], signs[i])
            sums[DIFFERENCE, i, i] += size
            sums[CONFLICTING, i, i] += size
            sums[SIGN_CHANGES, i, i] += changed
        for i in range(experts):
            for j in range(i + 1, experts):
                found = _compare(near[i, :span], signs[i], near[j], signs[j])
                sums[DIFFERENCE, i, j] += found[0]
                sums[CONFLICTING, i, j] += found[1]
                sums[SIGN_CHANGES, i, j] += found[2]
            for j in range(i, experts if with_dots else i + 1):
                sums[DOT, i, j] += _dot(near[i, :span], near[j])


@compiled
def _take(a: Doubles, near: Doubles, signs: Doubles) -> tuple[float, float]:
    """Returns Σ|a| and the number of non-zeros."""
    size, changed = 0.0, 0.0
    for k in range(a.shape[0]):
        near[k] = a[k]
        signs[k] = (1.0 if a[k] > 0.0 else 0.0) - (1.0 if a[k] < 0.0 else 0.0)
        size += abs(a[k])
        changed += abs(signs[k])
    return size, changed


@compiled
def _compare(a: Doubles, sign: Doubles, b: Doubles, other: Doubles) -> tuple[float, float, float]:
    """Σ|a - b|, its part where the signs differ, and the number of those positions."""
    difference, conflicting, changes = 0.0, 0.0, 0.0
    for k in range(a.shape[0]):
        distance = abs(a[k] - b[k])
        change = 1.0 if sign[k] != other[k] else 0.0
        difference += distance
        conflicting += distance * change
        changes += change
    return difference, conflicting, changes


@compiled
def _dot(a: Doubles, b: Doubles) -> float:
    total = 0.0
    for k in range(a.shape[0]):
        total += a[k] * b[k]
    return total
