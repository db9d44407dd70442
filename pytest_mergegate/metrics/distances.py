"""Distances between the experts' hidden states (THEORY section 3)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import FloatArray
from .undefined import Undefined

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
        ValueError: Shapes disagree, a value is NaN or infinite, or base states are missing.
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
        ValueError: Shapes disagree, or a value is NaN or infinite.
    """
    return np.stack([_between_experts(probe, "sqeuclidean") for probe in check_states(states)])


def check_states(states: Sequence[ArrayLike]) -> list[FloatArray]:
    """Return the probes' states [N, T, d], refusing unequal N or d and empty axes."""
    probes = [_checks.array("states", probe, ndim=3) for probe in states]
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
    bases = [_checks.array("base_states", base, ndim=2) for base in base_states]
    if [base.shape for base in bases] != [probe.shape[1:] for probe in probes]:
        raise ValueError("base_states must match the probes, positions and width of states")
    return bases


def _norms(states: FloatArray) -> FloatArray:
    norms: FloatArray = np.linalg.norm(states, axis=-1, keepdims=True)
    if not norms.all():
        raise Undefined("zero_hidden_state", "a hidden state is zero and cannot be normalised")
    return norms


def _between_experts(probe: FloatArray, metric: Literal["euclidean", "sqeuclidean"]) -> FloatArray:
    if len(probe) == 1:
        return np.zeros((1, 1))
    # not before it is needed: the first stage does without
    from scipy.spatial.distance import pdist, squareform

    positions = [pdist(probe[:, position], metric) for position in range(probe.shape[1])]
    distances: FloatArray = squareform(np.mean(positions, axis=0), checks=False)
    return distances
