"""Hidden states: how far apart the experts' are, and what a linear merge's should be.

THEORY sections 3, 4 and 6. The forecast of a merge θ_0 + Σ λ_j τ_j is exact where hidden states are
linear in the weights; how far they are from it is measured, by ``linearity_gap``, not assumed.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import FloatArray, Undefined

Normalize = Literal["unit", "none", "base"]


def pairwise_distances(
    states: Sequence[ArrayLike],
    *,
    normalize: Normalize = "unit",
    base_states: Sequence[ArrayLike] | None = None,
) -> FloatArray:
    """Return the distances between N experts for each probe, averaged over its positions.

    Their mean over probes (axis 0) is the d_ij of Eq. 2 of "An Empirical Study and Theoretical
    Explanation on Task-Level Model-Merging Collapse" (2026). Computed from differences: the
    Gram matrix would lose the small distances of experts that share a base.

    Args:
        states: One array [N, T, d] per probe (experts, positions, width); T may vary.
        normalize: ``unit`` divides every state by its norm (distances are then in [0, 2]),
            ``base`` by the norm of the base's state at that position, ``none`` by nothing.
        base_states: One array [T, d] per probe; needed for ``base``, else unused.

    Returns:
        Array [probes, N, N], symmetric, zero on the diagonals.

    Raises:
        Undefined: ``zero_hidden_state``, a state to divide by is zero.
        ValueError: Shapes disagree, base states are missing, or a value is NaN, infinite, or
            beyond what float64 can square.
    """
    if normalize not in ("unit", "none", "base"):
        raise ValueError(f"normalize must be 'unit', 'none' or 'base', got {normalize!r}")
    probes = check_states(states)
    if normalize == "unit":
        probes = [probe / _norms(probe) for probe in probes]
    elif normalize == "base":
        bases = check_base_states(base_states, probes)
        probes = [probe / _norms(base) for probe, base in zip(probes, bases, strict=True)]
    return np.stack([_between_experts(probe, "euclidean") for probe in probes])


def pairwise_squared_distances(states: Sequence[ArrayLike]) -> FloatArray:
    """Return the squared distances between N experts for each probe, averaged over positions.

    Not normalised: their mean over probes (axis 0) is the D2 of THEORY section 3, the input of
    the bounds. It is not the square of mean distances.

    Args:
        states: One array [N, T, d] per probe (experts, positions, width); T may vary.

    Returns:
        Array [probes, N, N], symmetric, zero on the diagonals.

    Raises:
        ValueError: Shapes disagree, or a value is NaN, infinite, or beyond what float64 can square.
    """
    return np.stack([_between_experts(probe, "sqeuclidean") for probe in check_states(states)])


def check_states(states: Sequence[ArrayLike]) -> list[FloatArray]:
    """Return the probes' states [N, T, d], refusing unequal N or d and empty axes."""
    probes = [
        _checks.squarable("states", probe, ndim=3) for probe in _checks.items("states", states)
    ]
    if not probes:
        raise ValueError("states must hold at least one probe")
    experts, _, width = probes[0].shape
    for probe in probes:
        if 0 in probe.shape:
            raise ValueError(f"states must not be empty, got shape {probe.shape}")
        if (probe.shape[0], probe.shape[2]) != (experts, width):
            raise ValueError(
                "states must have the same experts and width for every probe, "
                f"got {probes[0].shape} and {probe.shape}"
            )
    return probes


def check_base_states(
    base_states: Sequence[ArrayLike] | None, probes: Sequence[FloatArray]
) -> list[FloatArray]:
    """Return the base's states [T, d], refusing those that do not match the experts'."""
    if base_states is None:
        raise ValueError("base_states are needed")
    bases = [
        _checks.squarable("base_states", base, ndim=2)
        for base in _checks.items("base_states", base_states)
    ]
    if [base.shape for base in bases] != [probe.shape[1:] for probe in probes]:
        raise ValueError("base_states must match the probes, positions and width of states")
    return bases


def _norms(states: FloatArray) -> FloatArray:
    norms = np.asarray(np.linalg.norm(states, axis=-1, keepdims=True))
    if not norms.all():
        raise Undefined("zero_hidden_state", "a hidden state is zero and cannot be normalised")
    return norms


def _between_experts(probe: FloatArray, metric: Literal["euclidean", "sqeuclidean"]) -> FloatArray:
    """Return the mean distances [N, N] of states [N, T, d] over positions."""
    if len(probe) == 1:
        return np.zeros((1, 1))
    # not before it is needed: the first stage does without
    from scipy.spatial.distance import pdist, squareform

    positions = np.array([pdist(probe[:, t], metric) for t in range(probe.shape[1])])
    distances: FloatArray = squareform(np.mean(positions, axis=0), checks=False)
    return distances


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
        ValueError: Shapes disagree, or a value is NaN, infinite, or beyond what float64 can square.
    """
    probes = check_states(states)
    bases = check_base_states(base_states, probes)
    scales = _checks.weights(weights, len(probes[0]))
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
        ValueError: Shapes disagree, or a value is NaN, infinite, or beyond what float64 can square.
    """
    forecast = [_checks.array("mixed", probe, ndim=2) for probe in _checks.items("mixed", mixed)]
    pairs = [probe[np.newaxis] for probe in forecast]
    merged = check_base_states(merged_states, check_states(pairs))
    return math.sqrt(_mean_square([a - b for a, b in zip(merged, forecast, strict=True)]))


def mean_square_norm(states: Sequence[ArrayLike]) -> float:
    """Return E‖h‖²: the mean over probes of the mean over positions, for states [T, d].

    Raises:
        ValueError: No probes or positions, or a value is NaN, infinite, or beyond what float64 can
            square.
    """
    probes = [
        _checks.squarable("states", probe, ndim=2) for probe in _checks.items("states", states)
    ]
    if not probes or any(probe.size == 0 for probe in probes):
        raise ValueError("states must not be empty")
    return _mean_square(probes)


def _mean_square(probes: list[FloatArray]) -> float:
    return float(np.mean([np.mean(np.sum(probe * probe, axis=1)) for probe in probes]))


def relative_size(mean_square: float, reference_mean_square: float) -> float:
    """Return √(E‖a‖² / E‖b‖²), comparable across pools (THEORY section 4).

    δ_i² over E‖h_i‖² gives the relative distortion ρ_i; E‖h_i - h_0‖² over E‖h_0‖² the shift
    size s_i; Δ² over E‖h_0‖² the relative diameter.

    Raises:
        Undefined: ``zero_hidden_states``, the reference is 0.
        ValueError: An argument is negative, NaN or infinite, or float64 cannot hold the ratio.
    """
    square = _checks.at_least_zero("mean_square", mean_square)
    reference = _checks.at_least_zero("reference_mean_square", reference_mean_square)
    if reference == 0:
        raise Undefined("zero_hidden_states", "the states to compare with are all zero")
    return math.sqrt(_checks.ratio("the relative size", square, reference))


def effective_scale(merged: ArrayLike, summed: ArrayLike) -> float:
    """Return the λ that minimises ‖merged - λ·summed‖ (THEORY section 6).

    Args:
        merged: A merged task vector (or a sample of its tensors), any shape.
        summed: Σ τ_j at the same positions.

    Raises:
        Undefined: ``zero_task_vectors``, the sum is zero.
        ValueError: Shapes disagree, or a value is NaN, infinite, or beyond what float64 can square.
    """
    result, total = _checks.squarable("merged", merged), _checks.squarable("summed", summed)
    if result.shape != total.shape:
        raise ValueError(
            f"merged and summed must have one shape, got {result.shape} and {total.shape}"
        )
    if not total.any():
        raise Undefined("zero_task_vectors", "the task vectors sum to zero")
    return float(np.sum(result * total)) / float(np.sum(total * total))
