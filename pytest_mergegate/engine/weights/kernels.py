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
    columns = right.shape[1]
    out[:] = 0.0
    for start in range(0, columns, _SPAN):
        stop = min(start + _SPAN, columns)
        row = 0
        while row + 4 <= rows:
            _four_rows(left, right, out, row, start, stop)
            row += 4
        while row < rows:
            for k in range(rank):
                _add_scaled(left[row, k], right[k, start:stop], out[row, start:stop])
            row += 1
    for row in range(rows):
        for c in range(columns):
            out[row, c] *= scale


@compiled
def _four_rows(left: Doubles, right: Floats, out: Doubles, row: int, start: int, stop: int) -> None:
    """Some columns of four rows, so that each number of ``right`` is read once for all four."""
    o0, o1 = out[row, start:stop], out[row + 1, start:stop]
    o2, o3 = out[row + 2, start:stop], out[row + 3, start:stop]
    rank = right.shape[0]
    k = 0
    while k + 4 <= rank:
        r0, r1 = right[k, start:stop], right[k + 1, start:stop]
        r2, r3 = right[k + 2, start:stop], right[k + 3, start:stop]
        a, b, c, d = left[row], left[row + 1], left[row + 2], left[row + 3]
        a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
        c0, c1, c2, c3 = c[k], c[k + 1], c[k + 2], c[k + 3]
        d0, d1, d2, d3 = d[k], d[k + 1], d[k + 2], d[k + 3]
        for n in range(stop - start):
            u, v = np.float64(r0[n]), np.float64(r1[n])
            x, y = np.float64(r2[n]), np.float64(r3[n])
            o0[n] += (a0 * u + a1 * v) + (a2 * x + a3 * y)
            o1[n] += (b0 * u + b1 * v) + (b2 * x + b3 * y)
            o2[n] += (c0 * u + c1 * v) + (c2 * x + c3 * y)
            o3[n] += (d0 * u + d1 * v) + (d2 * x + d3 * y)
        k += 4
    while k < rank:
        for n in range(4):
            _add_scaled(left[row + n, k], right[k, start:stop], out[row + n, start:stop])
        k += 1


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
    near = np.empty((experts, _SPAN))  # side by side: rows far apart evict each other from caches
    signs, zeros = np.empty(_SPAN), np.empty(experts)
    for start in range(0, elements, _SPAN):
        stop = min(start + _SPAN, elements)
        for i in range(experts):
            zeros[i] = _copy(deltas[i, start:stop], near[i])
        _add_span(near, stop - start, zeros, signs, sums, with_dots)


@compiled
def _add_span(
    near: Doubles, span: int, zeros: Doubles, signs: Doubles, sums: Doubles, with_dots: bool
) -> None:
    experts = near.shape[0]
    for i in range(experts):
        size = _signs(near[i, :span], signs)
        sums[DIFFERENCE, i, i] += size
        sums[CONFLICTING, i, i] += size
        sums[SIGN_CHANGES, i, i] += span - zeros[i]
        for j in range(i + 1, experts):
            difference, conflicting, changes = _compare(near[i, :span], signs, near[j])
            if zeros[i] > 0 and zeros[j] > 0:
                changes -= _shared_zeros(near[i, :span], near[j])
            sums[DIFFERENCE, i, j] += difference
            sums[CONFLICTING, i, j] += conflicting
            sums[SIGN_CHANGES, i, j] += changes
        for j in range(i, experts if with_dots else i + 1):
            sums[DOT, i, j] += _dot(near[i, :span], near[j])


@compiled
def _copy(a: Doubles, near: Doubles) -> float:
    """Returns the number of zeros."""
    zeros = 0.0
    for k in range(a.shape[0]):
        near[k] = a[k]
        zeros += 1.0 if a[k] == 0.0 else 0.0
    return zeros


@compiled
def _signs(a: Doubles, out: Doubles) -> float:
    """Returns Σ|a|."""
    size = 0.0
    for k in range(a.shape[0]):
        out[k] = (1.0 if a[k] > 0.0 else 0.0) - (1.0 if a[k] < 0.0 else 0.0)
        size += abs(a[k])
    return size


@compiled
def _compare(a: Doubles, sign: Doubles, b: Doubles) -> tuple[float, float, float]:
    """Σ|a - b|, its part where no sign is shared, and the number of those positions.

    Two zeros share none either; they add nothing but to that number. The sign in place of ``a``
    keeps the product of two tiny numbers from vanishing.
    """
    difference, conflicting, changes = 0.0, 0.0, 0.0
    for k in range(a.shape[0]):
        distance = abs(a[k] - b[k])
        change = 1.0 if sign[k] * b[k] <= 0.0 else 0.0
        difference += distance
        conflicting += distance * change
        changes += change
    return difference, conflicting, changes


@compiled
def _shared_zeros(a: Doubles, b: Doubles) -> float:
    count = 0.0
    for k in range(a.shape[0]):
        count += 1.0 if abs(a[k]) + abs(b[k]) == 0.0 else 0.0
    return count


@compiled
def _dot(a: Doubles, b: Doubles) -> float:
    total = 0.0
    for k in range(a.shape[0]):
        total += a[k] * b[k]
    return total
