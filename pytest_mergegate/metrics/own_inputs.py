"""What a linear merge does to every expert on its own inputs, and the weights that leave the
worst-off expert best off (end of THEORY section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import FloatArray, Undefined
from .states import check_base_states, check_states


@dataclass(frozen=True, kw_only=True)
class OwnInputDistortion:
    """One expert's distortion on its own inputs, and the causes it splits into."""

    total: float
    """δ_i², the sum of the other three"""
    dilution: float
    """(1 - λ_i)² G_ii: the expert's own weight is not 1"""
    interference: float
    """λ₋ᵢᵀ G λ₋ᵢ: the shifts of the other experts"""
    cross: float
    """What the two add (or, negative, cancel) together"""


@dataclass(frozen=True, kw_only=True)
class MinimaxWeights:
    """Shares that leave the worst-off expert best off."""

    weights: FloatArray
    """λ, shape [N], in the simplex"""
    value: float
    """max_i δ_i² / G⁽ⁱ⁾_ii: 0 keeps every expert, 1 is as far as the base is"""


def own_input_distortion(gram: ArrayLike, weights: ArrayLike, expert: int) -> OwnInputDistortion:
    """Return δ_i² = (λ - e_i)ᵀ G (λ - e_i) and its parts (end of THEORY section 5).

    Args:
        gram: G of ``own_input_gram`` on the inputs of expert i, shape [N, N].
        weights: λ, shape [N], any real numbers.
        expert: i, in 0..N-1.

    Raises:
        ValueError: G is not a Gram matrix, lengths disagree, there is no such expert, or numbers
            are beyond what float64 can multiply.
    """
    matrix = _checks.gram_matrix(gram)
    scales = _checks.weights(weights, len(matrix))
    own = _checks.count("expert", expert)
    if own >= len(matrix):
        raise ValueError(f"expert must be below {len(matrix)}, got {own}")
    missing = 1 - float(scales[own])
    others = scales.copy()
    others[own] = 0.0
    pull = matrix @ others
    dilution = missing**2 * float(matrix[own, own])
    interference = max(0.0, float(others @ pull))
    cross = -2 * missing * float(pull[own]) + 0.0  # no negative zero
    return OwnInputDistortion(
        total=max(0.0, dilution + interference + cross),
        dilution=dilution,
        interference=interference,
        cross=cross,
    )


def own_input_gram(states: Sequence[ArrayLike], base_states: Sequence[ArrayLike]) -> FloatArray:
    """Return G_jk = E⟨S_j, S_k⟩ with the shifts S_j = h_j - h_0 (end of THEORY section 5).

    Args:
        states: One array [N, T, d] per probe of one task.
        base_states: One array [T, d] per probe.

    Returns:
        Array [N, N]: the mean over probes of the mean over positions.

    Raises:
        ValueError: Shapes disagree, or a value is NaN, infinite, or beyond what float64 can square.
    """
    probes = check_states(states)
    bases = check_base_states(base_states, probes)
    shifts = [
        (probe - base).reshape(len(probe), -1) for probe, base in zip(probes, bases, strict=True)
    ]
    grams = [rows @ rows.T / probe.shape[1] for rows, probe in zip(shifts, probes, strict=True)]
    gram: FloatArray = sum(grams[1:], grams[0]) / len(grams)
    return gram


def worst_own_input_distortion(grams: ArrayLike, weights: ArrayLike) -> float:
    """Return max_i δ_i² / G⁽ⁱ⁾_ii, each expert's distortion in shares of its own shift.

    Args:
        grams: G⁽ⁱ⁾ of ``own_input_gram`` for every expert i, shape [N, N, N].
        weights: λ, shape [N], any real numbers.

    Raises:
        Undefined: ``zero_task_vectors``, no expert moves its own inputs.
        ValueError: Shapes disagree, a G⁽ⁱ⁾ is not a Gram matrix, or numbers are beyond what float64
            can multiply.
    """
    parts = _relative_grams(grams)
    return _worst(parts, _checks.weights(weights, len(parts[0][1])))


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
    matrices = [_checks.gram_matrix(matrix) for matrix in stack]
    with np.errstate(over="ignore"):
        moved = [(i, m / m[i, i]) for i, m in enumerate(matrices) if m[i, i] > 0]
    if not moved:
        raise Undefined("zero_task_vectors", "no expert moves its own inputs")
    for i, matrix in moved:
        largest = float(np.abs(matrix).max())
        _checks.require_sums(f"grams[{i}], in shares of expert {i}'s own,", largest)
    return moved


def _worst(parts: list[tuple[int, FloatArray]], weights: FloatArray) -> float:
    return max(_relative_distortion(matrix, weights, own) for own, matrix in parts)


def _relative_distortion(matrix: FloatArray, weights: FloatArray, own: int) -> float:
    off = weights.copy()
    off[own] -= 1
    return max(0.0, float(off @ matrix @ off))
