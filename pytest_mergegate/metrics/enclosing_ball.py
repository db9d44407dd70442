"""The minimum enclosing ball of N points, from their squared distances alone.

Its squared radius is R² = max ½ αᵀ D2 α over the simplex, a concave problem when D2 holds
squared distances (THEORY section 5, item 1). An active-set method: add the farthest point,
then solve exactly on the points in use, dropping those whose weight would turn negative.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ._checks import FloatArray

# Where the optimality certificate counts as zero, for distances scaled to at most 1.
CONVERGED = 1e-12
# Curvature below this, per point, is round-off: the points in use are affinely dependent.
_FLAT = 1e-13


@dataclass(frozen=True, kw_only=True)
class MinimumDistortion:
    """The best worst-case distortion, in the squared unit of the states."""

    value: float
    """R² = ½ αᵀ D2 α: no model, made by any method, keeps every expert's distortion below it"""
    weights: FloatArray
    """α*, shape [N]: the best convex merge's weights, of the ball's centre on the points"""
    gap: float
    """Optimality certificate: the exact R² lies in [value, value + gap]"""


def enclosing_ball(distances: FloatArray, start: FloatArray | None = None) -> MinimumDistortion:
    """Return the minimum enclosing ball of points with squared ``distances`` [N, N].

    ``start`` are weights to search from, by default those of the farthest pair. Where all
    points are equal the weights are uniform.
    """
    scale = float(distances.max())
    if scale == 0:
        uniform = np.full(len(distances), 1 / len(distances))
        return MinimumDistortion(value=0.0, weights=uniform, gap=0.0)
    distances = distances / scale
    if start is None:
        start = np.zeros(len(distances))
        start[list(np.unravel_index(int(distances.argmax()), distances.shape))] = 0.5
    best = _ball(distances, start)
    for _ in range(50 + 10 * len(distances)):
        if best.gap <= CONVERGED:
            break
        candidate = _ball(distances, _corrected(distances, best.weights))
        if candidate.value <= best.value and candidate.gap >= best.gap:
            # Round-off allows no better; the gap says how good it is.
            break
        best = candidate
    return replace(best, value=scale * best.value, gap=scale * best.gap)


def _ball(distances: FloatArray, weights: FloatArray) -> MinimumDistortion:
    gradient = distances @ weights
    value = float(weights @ gradient)
    gap = max(0.0, float(gradient.max()) - value)
    return MinimumDistortion(value=0.5 * value, weights=weights, gap=gap)


def _corrected(distances: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the best weights on the points in use and the farthest one."""
    active = weights > 0
    active[int((distances @ weights).argmax())] = True
    weights = weights.copy()
    while True:
        used = np.flatnonzero(active)
        direction, bounded = _ascent(distances[np.ix_(used, used)], weights[used])
        falling = direction < 0
        if not falling.any():
            return weights
        steps = np.full(len(used), np.inf)
        steps[falling] = -weights[used][falling] / direction[falling]
        first = int(steps.argmin())
        if bounded and steps[first] >= 1:
            return _on_simplex(weights, used, direction)
        weights = _on_simplex(weights, used, steps[first] * direction)
        weights[used[first]] = 0.0
        active[used[first]] = False


def _ascent(distances: FloatArray, weights: FloatArray) -> tuple[FloatArray, bool]:
    """Return the step to the maximum with the sum of weights kept, and whether there is one.

    Where the points are affinely dependent the objective is linear along some directions: the
    step follows those and is unbounded.
    """
    if len(weights) == 1:
        return np.zeros(1), True
    from scipy.linalg import helmert  # not before it is needed: the first stage does without

    # A basis of the directions that keep the sum: projecting the constant direction out
    # instead would leave it among the flat ones, as round-off.
    basis = helmert(len(weights))
    curvature, axes = np.linalg.eigh(-basis @ distances @ basis.T)
    slope = basis @ (distances @ weights) @ axes
    flat = curvature <= _FLAT * len(weights)
    if float(np.abs(slope[flat]).max(initial=0.0)) > CONVERGED:
        direction: FloatArray = (axes[:, flat] @ slope[flat]) @ basis
        return direction, False
    newton: FloatArray = (axes[:, ~flat] @ (slope[~flat] / curvature[~flat])) @ basis
    return newton, True


def _on_simplex(weights: FloatArray, used: NDArray[np.intp], step: FloatArray) -> FloatArray:
    moved = weights.copy()
    moved[used] = np.maximum(moved[used] + step, 0.0)
    normalised: FloatArray = moved / moved.sum()
    return normalised
