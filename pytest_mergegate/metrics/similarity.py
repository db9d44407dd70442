"""HiddenSim and MDS (THEORY section 3).

"Eq." refers to "An Empirical Study and Theoretical Explanation on Task-Level Model-Merging
Collapse" (2026). Both scores are relative to the pool: some pair always has similarity 0 and
some pair 1, and every score changes when an expert is added. With N = 3 the similarities are
always {0, t, 1}.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks
from ._checks import FloatArray, Undefined

# max D - min D below this share of max D is no difference (THEORY section 3).
EQUIDISTANT = 1e-9
# Probes of every task from which resampling says something of the next draw (THEORY section 9).
FEWEST_PROBES = 3
# Where experts are nearly as far from each other, chance decides which pair is the farthest: an end
# without this margin misses up to 1.4 times as often as it may (benchmarks/promises.py).
_MARGIN = 1.3
# A mean similarity below this is what round-off leaves of "every similarity is 0".
_ZERO_SIMILARITY = 1e-12


def hidden_similarity(distances: ArrayLike) -> FloatArray:
    """Return HiddenSim = (max D - d_ij) / (max D - min D) for every pair (Eq. 2).

    Args:
        distances: Mean distances over the probes, shape [N, N].

    Returns:
        Array [N, N], symmetric, in [0, 1], with 1 on the diagonal.

    Raises:
        Undefined: ``needs_three_experts`` for N < 3; ``equidistant`` where all pairs are
            equally far apart, which says nothing about safety.
        ValueError: Not a symmetric, non-negative matrix with a zero diagonal.
    """
    matrix = _checks.distance_matrix("distances", distances)
    _require_three(len(matrix))
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    largest, smallest = float(pairs.max()), float(pairs.min())
    if largest - smallest <= EQUIDISTANT * largest:
        raise Undefined(
            "equidistant", f"all experts are {largest:.6g} apart: similarity has no scale"
        )
    similarity: FloatArray = (largest - matrix) / (largest - smallest)
    np.fill_diagonal(similarity, 1.0)
    return similarity


def merging_difficulty(similarity: ArrayLike) -> FloatArray:
    """Return the merging difficulty score of every expert (Eq. 3).

    MDS_i = 1 / mean_{j≠i} HiddenSim(i, j), at least 1, and infinite where every similarity
    of i is 0 (a mean of at most 1e-12).

    Args:
        similarity: HiddenSim, shape [N, N].

    Returns:
        Array [N].

    Raises:
        Undefined: ``needs_three_experts`` for N < 3.
        ValueError: Not a symmetric matrix of similarities in [0, 1] with 1 on the diagonal.
    """
    return _inverse(mean_similarity(similarity))


def mean_similarity(similarity: ArrayLike) -> FloatArray:
    """Return the mean similarity of every expert to the others, shape [N], in [0, 1].

    Raises:
        Undefined: ``needs_three_experts`` for N < 3.
        ValueError: Not a symmetric matrix of similarities in [0, 1] with 1 on the diagonal.
    """
    matrix = _checks.symmetric("similarity", similarity)
    if float(matrix.min()) < 0 or float(matrix.max()) > 1:
        raise ValueError("similarity must lie in [0, 1]")
    if (np.diagonal(matrix) != 1).any():
        raise ValueError("similarity must be 1 on the diagonal")
    _require_three(len(matrix))
    np.fill_diagonal(matrix, 0.0)
    mean: FloatArray = matrix.sum(axis=1) / (len(matrix) - 1)
    return mean


def merging_difficulty_interval(
    per_probe: ArrayLike,
    tasks: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> FloatArray:
    """Return a bootstrap interval of every expert's MDS (THEORY section 3).

    Probes are resampled within their task, and the percentiles of the mean similarity, 1 / MDS, are
    read. A resample without a defined MDS (all experts equidistant) counts as similarity 0. From a
    few probes the percentiles cover too little, .78 to .98 of what is asked. So each end is moved
    away from the estimate, as Student's quantile and the variance of k - 1 degrees of freedom
    ask (k: the fewest probes of a task), by a margin for what resampling cannot know, and further
    by the bootstrap's own bias where that points inwards. From fewer than three probes of a task
    there is no interval.

    Args:
        per_probe: Distances for each probe, shape [n, N, N].
        tasks: The task of each probe, length n.
        confidence: Two-sided level, in (0, 1).
        resamples: Number of resamples, at least 1.
        seed: Equal seeds give equal intervals.

    Returns:
        Array [N, 2] of lower and upper ends, at least 1, possibly infinite, never NaN.

    Raises:
        Undefined: ``needs_three_experts``, ``too_few_probes``, or ``equidistant`` for the mean
            over all probes.
        ValueError: Bad shapes, distances or settings.
    """
    probes = _checks.array("per_probe", per_probe, ndim=3)
    confidence = _checks.fraction("confidence", confidence)
    resamples = _checks.count("resamples", resamples, least=1)
    if len(tasks) != len(probes) or len(probes) == 0:
        raise ValueError(f"per_probe has {len(probes)} probes, tasks has {len(tasks)}")
    for probe in probes:
        _checks.distance_matrix("per_probe", probe)
    estimate = mean_similarity(hidden_similarity(probes.mean(axis=0)))
    fewest = min(Counter(tasks).values())
    if fewest < FEWEST_PROBES:
        raise Undefined(
            "too_few_probes",
            f"the interval of an MDS takes {FEWEST_PROBES} probes of every task, got {fewest}",
        )
    weights = _stratified_weights(tasks, resamples, np.random.default_rng(seed))
    upper = np.triu_indices(probes.shape[1], 1)
    drawn = _similarity_of_pairs(weights @ probes[:, *upper], upper, probes.shape[1])
    low, high = order_statistics(drawn, confidence)
    bias = drawn.mean(axis=0) - estimate
    widened = _widening(fewest, confidence)
    low = estimate - widened * np.maximum(estimate - low, 0) - np.maximum(bias, 0)
    high = estimate + widened * np.maximum(high - estimate, 0) + np.maximum(-bias, 0)
    return _inverse(np.stack([np.minimum(high, 1.0), np.maximum(low, 0.0)], axis=1))


def order_statistics(values: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Return the ends of the central interval along axis 0, as elements of ``values``.

    Elements, not interpolations: between an infinite and a finite value (or two infinities)
    an interpolation is NaN. The ranks are rounded outwards.
    """
    ordered = np.sort(values, axis=0)
    skipped = math.floor((1 - confidence) / 2 * (len(ordered) - 1))
    return ordered[skipped], ordered[len(ordered) - 1 - skipped]


def _require_three(experts: int) -> None:
    if experts < 3:
        raise Undefined(
            "needs_three_experts", f"similarity is relative to the pool: {experts} is too few"
        )


def _inverse(mean: FloatArray) -> FloatArray:
    difficulty = np.full(mean.shape, np.inf)
    np.divide(1.0, mean, out=difficulty, where=mean > _ZERO_SIMILARITY)
    return difficulty


def _stratified_weights(
    tasks: Sequence[Hashable], resamples: int, generator: np.random.Generator
) -> FloatArray:
    """Return the weight of every probe in every resample, shape [resamples, n], rows sum to 1."""
    members: dict[Hashable, list[int]] = {}
    for index, task in enumerate(tasks):
        members.setdefault(task, []).append(index)
    weights = np.empty((resamples, len(tasks)))
    for indices in members.values():
        size = len(indices)
        weights[:, indices] = generator.multinomial(size, np.full(size, 1 / size), size=resamples)
    return weights / len(tasks)


def _widening(probes: int, confidence: float) -> float:
    """Return how many times as far from the estimate as a percentile an end of the interval is."""
    from scipy.special import ndtri, stdtrit  # not before it is needed

    tail = (1 + confidence) / 2
    student = float(stdtrit(probes - 1, tail) / ndtri(tail))
    return _MARGIN * student * math.sqrt(probes / (probes - 1))


def _similarity_of_pairs(
    distances: FloatArray, pairs: tuple[NDArray[np.intp], ...], experts: int
) -> FloatArray:
    """Return mean similarities from distances [resamples, pairs], shape [resamples, experts]."""
    largest = distances.max(axis=1, keepdims=True)
    spread = largest - distances.min(axis=1, keepdims=True)
    touches = np.zeros((distances.shape[1], experts))
    for end in pairs:
        touches[np.arange(len(end)), end] = 1.0
    defined = spread > EQUIDISTANT * largest
    similarity = np.zeros_like(distances)
    np.divide(largest - distances, spread, out=similarity, where=defined)
    mean: FloatArray = similarity @ touches / (experts - 1)
    return mean
