"""Distances between the experts' hidden states (THEORY section 3)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks, _scales
from ._checks import FloatArray
from ._scales import Exponents
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
        ValueError: Shapes disagree, a value is NaN or infinite, base states are missing, or
            float64 cannot hold a distance.
    """
    if normalize not in ("unit", "none", "base"):
        raise ValueError(f"normalize must be 'unit', 'none' or 'base', got {normalize!r}")
    probes = check_states(states)
    if normalize == "unit":
        probes = [_unit(probe) for probe in probes]
    if normalize != "base":
        return np.stack([_between_experts(probe) for probe in probes])
    bases = [_norms(base) for base in check_base_states(base_states, probes)]
    return np.stack(
        [_between_experts(probe, over=base) for probe, base in zip(probes, bases, strict=True)]
    )


def pairwise_squared_distances(states: Sequence[ArrayLike]) -> FloatArray:
    """Return the squared distances between N experts for each probe, averaged over positions.

    Not normalised: their mean over probes (axis 0) is the D2 of THEORY section 3, the input of
    the bounds. It is not the square of mean distances.

    Args:
        states: One array [N, T, d] per probe (experts, positions, width); T may vary.

    Returns:
        Array [probes, N, N], symmetric, zero on the diagonals.

    Raises:
        ValueError: Shapes disagree, a value is NaN or infinite, or float64 cannot hold a squared
            distance.
    """
    return np.stack([_between_experts(probe, squared=True) for probe in check_states(states)])


def check_states(states: Sequence[ArrayLike]) -> list[FloatArray]:
    """Return the probes' states [N, T, d], refusing unequal N or d and empty axes."""
    probes = [_checks.array("states", probe, ndim=3) for probe in _checks.items("states", states)]
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
        _checks.array("base_states", base, ndim=2)
        for base in _checks.items("base_states", base_states)
    ]
    if [base.shape for base in bases] != [probe.shape[1:] for probe in probes]:
        raise ValueError("base_states must match the probes, positions and width of states")
    return bases


def _norms(states: FloatArray) -> tuple[FloatArray, Exponents]:
    norms, exponents = _scales.norms(states)
    if not norms.all():
        raise Undefined("zero_hidden_state", "a hidden state is zero and cannot be normalised")
    return norms, exponents


def _unit(probe: FloatArray) -> FloatArray:
    norms, exponents = _norms(probe)
    unit: FloatArray = (np.ldexp(probe, -exponents) if exponents.any() else probe) / norms
    return unit


def _between_experts(
    probe: FloatArray,
    *,
    squared: bool = False,
    over: tuple[FloatArray, Exponents] | None = None,
) -> FloatArray:
    """Return the mean distances [N, N] of states [N, T, d], divided by ``over`` [T, 1] if given."""
    if len(probe) == 1:
        return np.zeros((1, 1))
    # not before it is needed: the first stage does without
    from scipy.spatial.distance import pdist, squareform

    scaled = probe
    metric: Literal["sqeuclidean", "euclidean"] = "sqeuclidean" if squared else "euclidean"
    if over is not None:
        with np.errstate(all="ignore"):  # whatever comes of an extreme norm is doubted below
            scaled = probe / over[0]
    positions = np.array([pdist(scaled[:, t], metric) for t in range(probe.shape[1])])
    doubtful = ~(_scales.trusted(positions) if squared else _scales.trusted_roots(positions))
    if over is not None and over[1].any():
        doubtful[:] = True
    if doubtful.any():
        mean = _mean_apart(probe, positions, doubtful, squared=squared, over=over)
    else:
        mean = np.mean(positions, axis=0)
    distances: FloatArray = squareform(mean, checks=False)
    return distances


def _mean_apart(
    probe: FloatArray,
    positions: FloatArray,
    doubtful: NDArray[np.bool_],
    *,
    squared: bool,
    over: tuple[FloatArray, Exponents] | None,
) -> FloatArray:
    """Return the mean over ``positions`` [T, pairs], the ``doubtful`` ones among them anew.

    Those are zero, or so small or large that float64 may have lost their squares.
    """
    first, second = np.triu_indices(len(probe), 1)
    sizes, exponents = positions.copy(), np.zeros(positions.shape, dtype=np.int64)
    for pair in np.flatnonzero(doubtful.any(axis=0)):
        at = np.flatnonzero(doubtful[:, pair])
        found, each = _scales.distances(probe[first[pair], at], probe[second[pair], at])
        if over is not None:
            found, each = found / over[0][at, 0], each - over[1][at, 0]
        sizes[at, pair] = found * found if squared else found
        exponents[at, pair] = 2 * each if squared else each
    name = "the squared distance of experts" if squared else "the distance of experts"
    return _scales.restored(name, *_scales.mean(sizes, exponents))
