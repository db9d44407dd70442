"""Linear merges θ_0 + Σ λ_j τ_j on hidden states (THEORY sections 4, 5 and 6).

Exact where hidden states are linear in the weights; how far they are from it is measured, by
``linearity_gap``, not assumed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import FloatArray
from .distances import check_base_states, check_states
from .undefined import Undefined


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


def own_input_distortion(gram: ArrayLike, weights: ArrayLike, expert: int) -> OwnInputDistortion:
    """Return δ_i² = (λ - e_i)ᵀ G (λ - e_i) and its parts (end of THEORY section 5).

    Args:
        gram: G of ``own_input_gram`` on the inputs of expert i, shape [N, N].
        weights: λ, shape [N], any real numbers.
        expert: i, in 0..N-1.

    Raises:
        ValueError: G is not a Gram matrix, lengths disagree, or there is no such expert.
    """
    matrix = check_gram(gram)
    scales = check_weights(weights, len(matrix))
    own = _checks.count("expert", expert)
    if own >= len(matrix):
        raise ValueError(f"expert must be below {len(matrix)}, got {own}")
    missing = 1 - float(scales[own])
    others = scales.copy()
    others[own] = 0.0
    pull = matrix @ others
    dilution = missing**2 * float(matrix[own, own])
    interference = max(0.0, float(others @ pull))
    cross = -2 * missing * float(pull[own])
    return OwnInputDistortion(
        total=max(0.0, dilution + interference + cross),
        dilution=dilution,
        interference=interference,
        cross=cross + 0.0,
    )


def own_input_gram(states: Sequence[ArrayLike], base_states: Sequence[ArrayLike]) -> FloatArray:
    """Return G_jk = E⟨S_j, S_k⟩ with the shifts S_j = h_j - h_0 (end of THEORY section 5).

    Args:
        states: One array [N, T, d] per probe of one task.
        base_states: One array [T, d] per probe.

    Returns:
        Array [N, N]: the mean over probes of the mean over positions.

    Raises:
        ValueError: Shapes disagree, or a value is NaN or infinite.
    """
    probes = check_states(states)
    bases = check_base_states(base_states, probes)
    total = np.zeros((len(probes[0]), len(probes[0])))
    for probe, base in zip(probes, bases, strict=True):
        shifts = (probe - base).reshape(len(probe), -1)
        total += shifts @ shifts.T / len(base)
    gram: FloatArray = total / len(probes)
    return gram


def mix_states(
    states: Sequence[ArrayLike], base_states: Sequence[ArrayLike], weights: ArrayLike
) -> list[FloatArray]:
    """Return the forecast ĥ = h_0 + Σ λ_j (h_j - h_0) for each probe (THEORY section 6).

    Args:
        states: One array [N, T, d] per probe.
        base_states: One array [T, d] per probe.
        weights: λ, the effective scale of every expert, shape [N], any real numbers.

    Returns:
        One array [T, d] per probe.

    Raises:
        ValueError: Shapes disagree, or a value is NaN or infinite.
    """
    probes = check_states(states)
    bases = check_base_states(base_states, probes)
    scales = check_weights(weights, len(probes[0]))
    return [
        base + np.tensordot(scales, probe - base, axes=1)
        for probe, base in zip(probes, bases, strict=True)
    ]


def linearity_gap(merged_states: Sequence[ArrayLike], mixed: Sequence[ArrayLike]) -> float:
    """Return η, the root mean square distance of a merged model's states to their forecast.

    Args:
        merged_states: One array [T, d] per probe.
        mixed: The result of ``mix_states`` on the same probes.

    Raises:
        ValueError: Shapes disagree, or a value is NaN or infinite.
    """
    forecast = [_checks.array("mixed", probe, ndim=2) for probe in mixed]
    pairs = [probe[np.newaxis] for probe in forecast]
    merged = check_base_states(merged_states, check_states(pairs))
    differences = [real - mix for real, mix in zip(merged, forecast, strict=True)]
    return math.sqrt(mean_square_norm(differences))


def mean_square_norm(states: Sequence[ArrayLike]) -> float:
    """Return E‖h‖²: the mean over probes of the mean over positions, for states [T, d].

    Raises:
        ValueError: No probes or positions, or a value is NaN or infinite.
    """
    probes = [_checks.array("states", probe, ndim=2) for probe in states]
    if not probes or any(probe.size == 0 for probe in probes):
        raise ValueError("states must not be empty")
    return float(np.mean([np.mean(np.sum(probe * probe, axis=1)) for probe in probes]))


def relative_size(mean_square: float, reference_mean_square: float) -> float:
    """Return √(E‖a‖² / E‖b‖²), comparable across pools (THEORY section 4).

    δ_i² over E‖h_i‖² gives the relative distortion ρ_i; E‖h_i - h_0‖² over E‖h_0‖² the shift
    size s_i; Δ² over E‖h_0‖² the relative diameter.

    Raises:
        Undefined: ``zero_hidden_states``, the reference is 0.
        ValueError: An argument is negative, NaN or infinite.
    """
    square = _checks.at_least_zero("mean_square", mean_square)
    reference = _checks.at_least_zero("reference_mean_square", reference_mean_square)
    if reference == 0:
        raise Undefined("zero_hidden_states", "the states to compare with are all zero")
    return math.sqrt(square / reference)


def effective_scale(merged: ArrayLike, summed: ArrayLike) -> float:
    """Return the λ that minimises ‖merged - λ·summed‖ (THEORY section 6).

    Args:
        merged: A merged task vector (or a sample of its tensors), any shape.
        summed: Σ τ_j at the same positions.

    Raises:
        Undefined: ``zero_task_vectors``, the sum is zero.
        ValueError: Shapes disagree, or a value is NaN or infinite.
    """
    result, total = _checks.array("merged", merged), _checks.array("summed", summed)
    if result.shape != total.shape:
        raise ValueError(
            f"merged and summed must have one shape, got {result.shape} and {total.shape}"
        )
    square = float(np.sum(total * total))
    if square == 0:
        raise Undefined("zero_task_vectors", "the task vectors sum to zero")
    return float(np.sum(result * total)) / square


def check_weights(weights: ArrayLike, experts: int) -> FloatArray:
    """``weights`` as float64 [N]. Raises ValueError."""
    scales = _checks.array("weights", weights, ndim=1)
    if len(scales) != experts:
        raise ValueError(f"weights must have length {experts}, got {len(scales)}")
    return scales


def check_gram(gram: ArrayLike) -> FloatArray:
    """``gram`` as float64 [N, N]. Raises ValueError where it is no Gram matrix."""
    matrix = _checks.symmetric("gram", gram)
    scale = float(np.abs(matrix).max())
    if scale > 0:
        lowest = float(np.linalg.eigvalsh(matrix / scale)[0])
        if lowest < -_checks.EUCLIDEAN_TOLERANCE * len(matrix):
            raise ValueError("gram must be a Gram matrix of shifts: it has a negative eigenvalue")
    return matrix
