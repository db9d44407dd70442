"""Merge weights that leave the worst-off expert best off (end of THEORY section 5)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _scales
from ._checks import FloatArray
from .own_inputs import check_gram, check_weights
from .undefined import Undefined


@dataclass(frozen=True, kw_only=True)
class MinimaxWeights:
    """Shares that leave the worst-off expert best off."""

    weights: FloatArray
    """λ, shape [N], in the simplex"""
    value: float
    """max_i δ_i² / G⁽ⁱ⁾_ii: 0 keeps every expert, 1 is as far as the base is"""


def worst_own_input_distortion(grams: ArrayLike, weights: ArrayLike) -> float:
    """Return max_i δ_i² / G⁽ⁱ⁾_ii, each expert's distortion in shares of its own shift.

    Args:
        grams: G⁽ⁱ⁾ of ``own_input_gram`` for every expert i, shape [N, N, N].
        weights: λ, shape [N], any real numbers.

    Raises:
        Undefined: ``zero_task_vectors``, no expert moves its own inputs.
        ValueError: Shapes disagree, a G⁽ⁱ⁾ is not a Gram matrix, or float64 cannot hold the share.
    """
    parts = _relative_grams(grams)
    return _worst(parts, check_weights(weights, len(parts[0][1])))


def minimax_weights(grams: ArrayLike) -> MinimaxWeights:
    """Return the shares λ whose worst own-input distortion is least (end of THEORY section 5).

    A convex problem: the largest of N quadratics over the simplex. An expert that does not move
    its own inputs has nothing to lose and is left out of the maximum.

    Args:
        grams: G⁽ⁱ⁾ of ``own_input_gram`` for every expert i, shape [N, N, N].

    Raises:
        Undefined: ``zero_task_vectors``, no expert moves its own inputs.
        ValueError: Shapes disagree, a G⁽ⁱ⁾ is not a Gram matrix, or one expert moves another's
            inputs so much farther than that one does that float64 cannot hold it.
    """
    from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint, minimize

    parts = _relative_grams(grams)
    count = len(parts[0][1])
    start: FloatArray = np.append(np.full(count, 1 / count), 0.0)
    start[-1] = _worst(parts, start[:-1])

    def slack(x: FloatArray) -> FloatArray:
        return np.array([x[-1] - _relative_distortion(m, x[:-1], own) for own, m in parts])

    def slack_gradient(x: FloatArray) -> FloatArray:
        rows = [-2 * m @ (x[:-1] - np.eye(count)[own]) for own, m in parts]
        return np.column_stack([np.array(rows), np.ones(len(rows))])

    def worst(x: FloatArray) -> float:
        return float(x[-1])

    how: dict[str, Any] = {
        "method": "SLSQP",
        "jac": lambda x: np.append(np.zeros(count), 1.0),
        "bounds": Bounds(np.zeros(count + 1), np.append(np.ones(count), np.inf)),
        "constraints": [
            NonlinearConstraint(slack, 0, np.inf, jac=slack_gradient),
            LinearConstraint(np.append(np.ones(count), 0.0), 1, 1),
        ],
        "options": {"maxiter": 500, "ftol": 1e-12},
    }
    found = minimize(worst, start, **how)
    shares = np.clip(found.x[:-1], 0, None)
    shares = shares / shares.sum() if shares.sum() > 0 else start[:-1]
    best = _worst(parts, shares)
    if not best <= start[-1]:  # the search went astray
        shares, best = start[:-1], start[-1]
    return MinimaxWeights(weights=shares, value=float(best))


def _relative_grams(grams: ArrayLike) -> list[tuple[int, FloatArray]]:
    """Each expert that moves its own inputs, with its G in shares of how far."""
    stack = _checks.array("grams", grams, ndim=3)
    if not len(stack) == stack.shape[1] == stack.shape[2]:
        raise ValueError(f"grams must have shape [N, N, N], got {list(stack.shape)}")
    matrices = [check_gram(matrix) for matrix in stack]
    with np.errstate(over="ignore"):
        moved = [(i, m / m[i, i]) for i, m in enumerate(matrices) if m[i, i] > 0]
    if not moved:
        raise Undefined("zero_task_vectors", "no expert moves its own inputs")
    for i, matrix in moved:
        if not float(np.abs(matrix).max()) <= _scales.LARGEST:
            raise ValueError(f"grams[{i}] is too large for float64 in shares of expert {i}'s own")
    return moved


def _worst(parts: list[tuple[int, FloatArray]], weights: FloatArray) -> float:
    """Return the largest of the relative distortions, at any scale of the weights."""
    return max(_scaled_distortion(matrix, weights, own) for own, matrix in parts)


def _scaled_distortion(matrix: FloatArray, weights: FloatArray, own: int) -> float:
    off = weights.copy()
    off[own] -= 1
    size = _scales.exponent(off)
    off = np.ldexp(off, -size)
    share = max(0.0, float(off @ matrix @ off))
    return float(_scales.rounded("the worst distortion", share, 2 * size))


def _relative_distortion(matrix: FloatArray, weights: FloatArray, own: int) -> float:
    """Return the same of weights in the simplex, for the search: a little faster."""
    off = weights.copy()
    off[own] -= 1
    return max(0.0, float(off @ matrix @ off))
