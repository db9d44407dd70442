"""What any merged model must distort, and what the best convex merge does (THEORY section 5).

Experts are N points whose squared distances D2 are ``pairwise_squared_distances(...)`` averaged
over probes. The paper, "An Empirical Study and Theoretical Explanation on Task-Level
Model-Merging Collapse" (2026), applies Jung's theorem per input; these bounds hold for one set
of merge weights that serves all inputs.

The minimum enclosing ball of the points has the squared radius R² = max ½ αᵀ D2 α over the simplex,
a concave problem when D2 holds squared distances. It is found by an active-set method: add the
farthest point, then solve exactly on the points in use, dropping those whose weight would turn
negative.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks
from ._checks import FloatArray

Feasibility = Literal["impossible", "possible", "undecided"]

_SUM_TOLERANCE = 1e-6
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


@dataclass(frozen=True, kw_only=True)
class RadiusBounds:
    """Bounds on R² from the diameter alone."""

    lower: float
    """Δ²/4"""
    upper: float
    """Δ²·(N - 1)/(2N)"""


def minimum_distortion(squared_distances: ArrayLike) -> MinimumDistortion:
    """Return R² = max ½ αᵀ D2 α over the simplex, and its maximiser (items 1 and 2).

    R² is the squared radius of the experts' minimum enclosing ball.

    Args:
        squared_distances: Mean squared distances D2, shape [N, N].

    Raises:
        ValueError: Not symmetric, negative, non-finite, or not squared distances of points.
    """
    return enclosing_ball(_checks.squared_distance_matrix(squared_distances))


def diameter(squared_distances: ArrayLike) -> float:
    """Return Δ = √max D2, in the unit of the states.

    Raises:
        ValueError: As ``minimum_distortion``.
    """
    return math.sqrt(_squared_diameter(squared_distances))


def distortions(squared_distances: ArrayLike, weights: ArrayLike) -> FloatArray:
    """Return δ_i² = (D2 α)_i - ½ αᵀ D2 α for every expert (item 4), shape [N].

    The mean squared distance of each expert to the mix Σ α_j h_j.

    Args:
        squared_distances: Mean squared distances D2, shape [N, N].
        weights: α, shape [N]; they sum to 1 and may be negative.

    Raises:
        ValueError: As ``minimum_distortion``, weights of a wrong length or sum, or numbers beyond
            what float64 can multiply.
    """
    matrix = _checks.squared_distance_matrix(squared_distances)
    alpha = _checks.weights(weights, len(matrix))
    total = float(alpha.sum())
    if not abs(total - 1) <= _SUM_TOLERANCE:
        raise ValueError(f"weights must sum to 1, got {total}")
    to_experts = matrix @ alpha
    return np.asarray(np.maximum(to_experts - 0.5 * float(alpha @ to_experts), 0.0))


def uniform_distortion(squared_distances: ArrayLike) -> float:
    """Return the worst distortion of the plain average, at most 4(1 - 1/N)²·R² (item 5).

    Raises:
        ValueError: As ``minimum_distortion``.
    """
    experts = len(_checks.squared_distance_matrix(squared_distances))
    return float(distortions(squared_distances, np.full(experts, 1 / experts)).max())


def jung_upper(squared_distances: ArrayLike) -> float:
    """Return Jung's bound Δ²·(N - 1)/(2N), never below R² (item 3).

    Raises:
        ValueError: As ``minimum_distortion``.
    """
    return radius_bounds(squared_distances).upper


def radius_bounds(squared_distances: ArrayLike) -> RadiusBounds:
    """Return Δ²/4 ≤ R² ≤ Δ²·(N - 1)/(2N) (item 3).

    Raises:
        ValueError: As ``minimum_distortion``.
    """
    matrix = _checks.squared_distance_matrix(squared_distances)
    squared, experts = float(matrix.max()), len(matrix)
    return RadiusBounds(lower=squared / 4, upper=squared * (experts - 1) / (2 * experts))


def paper_bound(squared_distances: ArrayLike, dimension: int) -> float:
    """Return the paper's d/(2(d + 1))·Δ² for hidden states of width d (item 6).

    Reported beside R², not in its place: it bounds one input at a time.

    Raises:
        ValueError: As ``minimum_distortion``, or a dimension below 1.
    """
    width = _checks.count("dimension", dimension, least=1)
    return width / (2 * (width + 1)) * _squared_diameter(squared_distances)


def feasibility(
    squared_distances: ArrayLike, budget: float, *, linearity_gap: float = 0.0
) -> Feasibility:
    """Say whether some merge keeps every expert within a distortion budget B (item 6).

    Args:
        squared_distances: Mean squared distances D2, shape [N, N].
        budget: Largest allowed mean squared distance to an expert, at least 0.
        linearity_gap: η, the measured distance between the merged model's states and the mix
            of the experts' states, in the unit of the states. 0 decides for the mix itself.

    Returns:
        ``impossible`` for every method where R² > B (Δ²/4 > B implies it); ``possible``
        where (R + η)² ≤ B; ``undecided`` between the two. Equality up to round-off
        (1e-12 of Δ²) counts as within the budget.

    Raises:
        ValueError: As ``minimum_distortion``, or a budget or gap that is negative, or a gap beyond
            what float64 can square.
    """
    limit = _checks.at_least_zero("budget", budget)
    eta = _checks.at_least_zero("linearity_gap", linearity_gap)
    _checks.squarable("linearity_gap", eta)
    best = minimum_distortion(squared_distances)
    slack = CONVERGED * _squared_diameter(squared_distances)
    if not best.value - slack <= limit:
        return "impossible"
    if (math.sqrt(best.value + best.gap) + eta) ** 2 - slack <= limit + best.gap:
        return "possible"
    return "undecided"


def _squared_diameter(squared_distances: ArrayLike) -> float:
    return float(_checks.squared_distance_matrix(squared_distances).max())


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
