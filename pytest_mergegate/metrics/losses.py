"""Merging loss and its companions (THEORY section 1).

"Eq." refers to "An Empirical Study and Theoretical Explanation on Task-Level Model-Merging
Collapse" (2026).
"""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _scales
from ._checks import FloatArray
from .undefined import Undefined

TOTAL_LOSS = -100.0

# Below this share of the scores, expert minus chance is round-off (0.1 + 0.2 against 0.3).
_CHANCE_TOLERANCE = 1e-12
# Resampled scores held in memory at one time.
_BLOCK = 1 << 21


@dataclass(frozen=True, kw_only=True)
class PoolLoss:
    """The losses of a pool in two numbers, in percent."""

    mean: float
    """Arithmetic mean over the experts."""
    worst: float
    """The minimum: the loss of the expert that lost most."""


def merging_loss(merged: float, expert: float) -> float:
    """Return the merging loss L = (merged / expert - 1)·100 in percent (Eq. 1).

    Negative where the merge is worse than the expert; it may be positive. Scores are in any
    one unit; sums over the same examples do, and are exact where every score is 0 or 1.

    Raises:
        Undefined: ``expert_score_zero``, or ``expert_score_negative``, where a ratio of
            scores has no meaning.
        ValueError: A score is NaN or infinite, or float64 cannot hold the loss.
    """
    merged, expert = _checks.finite("merged", merged), _checks.finite("expert", expert)
    _require_positive(expert)
    apart, exponent = _scales.total([merged, -expert])
    return _scales.quotient("the merging loss", 100 * apart, expert, exponent)


def merging_loss_interval(
    merged_scores: ArrayLike,
    expert_scores: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bootstrap percentile interval of the merging loss, in percent.

    The bootstrap is paired (THEORY section 1): each resample draws the same examples for the
    merged model and for the expert. A resample in which the expert's mean score is not
    positive has no loss. It counts against both ends: as a total loss (-100, or the lowest
    loss seen where that is lower) at the lower end, as the highest loss seen at the upper end.
    Scores that do not vary give an interval of no width, however few they are.

    Args:
        merged_scores: Per-example scores of the merged model, shape [n].
        expert_scores: Per-example scores of the expert on the same examples, shape [n].
        confidence: Two-sided level, in (0, 1).
        resamples: Number of resamples, at least 1.
        seed: Equal seeds give equal intervals.

    Raises:
        Undefined: ``expert_score_zero`` or ``expert_score_negative``, for the mean score.
        ValueError: Empty, unequal or non-finite scores, or a bad setting.
    """
    scores = _paired(merged_scores, expert_scores)
    confidence = _checks.fraction("confidence", confidence)
    resamples = _checks.count("resamples", resamples, least=1)
    mean_merged, mean_expert = scores.mean(axis=1)
    point = merging_loss(float(mean_merged), float(mean_expert))
    merged, expert = _resampled_means(scores, resamples, np.random.default_rng(seed))
    defined = expert > 0
    losses = (merged[defined] / expert[defined] - 1) * 100
    undefined = resamples - losses.size
    worst = min(TOTAL_LOSS, float(losses.min(initial=point)))
    best = float(losses.max(initial=point))
    low, _ = _checks.order_statistics(np.append(losses, np.full(undefined, worst)), confidence)
    _, high = _checks.order_statistics(np.append(losses, np.full(undefined, best)), confidence)
    return float(low), float(high)


def retention(merged: float, expert: float, chance: float) -> float:
    """Return the chance-corrected retention κ = (merged - chance) / (expert - chance).

    1 where nothing is lost, 0 at chance level, negative below it (THEORY section 1).

    Raises:
        Undefined: ``expert_not_above_chance``.
        ValueError: A score is NaN or infinite, or float64 cannot hold the retention.
    """
    merged, expert = _checks.finite("merged", merged), _checks.finite("expert", expert)
    chance = _checks.finite("chance", chance)
    above, unit = _scales.total([expert, -chance])
    # the larger of the two is ½ to 1 in that unit
    if above <= _CHANCE_TOLERANCE * max(abs(math.ldexp(each, -unit)) for each in (expert, chance)):
        raise Undefined(
            "expert_not_above_chance",
            f"retention needs an expert above chance: it scores {expert}, chance is {chance}",
        )
    left, exponent = _scales.total([merged, -chance])
    return _scales.quotient("the retention", left, above, exponent - unit)


def majority_rate(labels: Iterable[Hashable]) -> float:
    """Return the share of the most common label, in (0, 1]: what chance scores.

    Raises:
        ValueError: There are no labels, or one has no hash.
    """
    try:
        counts = Counter(_checks.items("labels", labels))
    except TypeError as error:
        raise ValueError(f"labels must be hashable: {error}") from None
    if not counts:
        raise ValueError("labels must not be empty")
    return max(counts.values()) / counts.total()


def pool_losses(losses: Collection[float]) -> PoolLoss:
    """Return the mean and the worst of the experts' losses, in percent.

    Raises:
        ValueError: No losses, or one that is NaN or infinite.
    """
    values = _checks.sample("losses", _checks.items("losses", losses))
    mean = _scales.rounded("the mean loss", *_scales.mean(values))
    return PoolLoss(mean=float(mean), worst=float(values.min()))


def _require_positive(expert: float) -> None:
    if expert == 0:
        raise Undefined("expert_score_zero", "the merging loss needs an expert score above 0")
    if expert < 0:
        raise Undefined(
            "expert_score_negative",
            f"the merging loss is a ratio of scores and needs one above 0, got {expert}",
        )


def _paired(merged_scores: ArrayLike, expert_scores: ArrayLike) -> FloatArray:
    merged = _checks.sample("merged_scores", merged_scores)
    expert = _checks.sample("expert_scores", expert_scores)
    if merged.shape != expert.shape:
        raise ValueError(
            "merged_scores and expert_scores must cover the same examples, "
            f"got {merged.size} and {expert.size}"
        )
    return np.stack([merged, expert])


def _resampled_means(
    scores: FloatArray, resamples: int, generator: np.random.Generator
) -> FloatArray:
    """Return the means of [2, n] scores in every resample, shape [2, resamples]."""
    size = scores.shape[1]
    block = max(1, _BLOCK // size)
    means = [
        # Gathered, not multiplied by counts: equal scores must give exactly equal means.
        scores[:, generator.integers(0, size, size=(min(block, resamples - start), size))].mean(
            axis=2
        )
        for start in range(0, resamples, block)
    ]
    return np.concatenate(means, axis=1)
