"""Merging loss and its companions (THEORY section 1).

"Eq." refers to "An Empirical Study and Theoretical Explanation on Task-Level Model-Merging
Collapse" (2026).
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import Undefined
from .betting import ratio_bounds
from .certificates import disagreement_bound

TOTAL_LOSS = -100.0

# Below this share of the scores, expert minus chance is round-off (0.1 + 0.2 against 0.3).
_CHANCE_TOLERANCE = 1e-12


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
    return _checks.ratio("the merging loss", 100 * (merged - expert), expert)


def merging_loss_interval(
    merged_scores: ArrayLike,
    expert_scores: ArrayLike,
    *,
    confidence: float = 0.95,
    binary: bool | None = None,
) -> tuple[float, float]:
    """Return the interval of the merging loss, in percent (THEORY section 9).

    Each end is wrong with a chance of at most (1 - confidence) / 2, at every number of examples.
    For scores that are 0 or 1 the lower end is Clopper-Pearson's bound of the share of answers
    lost among those that the expert had right: what was gained elsewhere is not counted. For
    graded scores both ends, and for 0 and 1 the upper end, come of betting on the paired scores
    (``betting.ratio_bounds``), and hold whenever sampling stops. The interval holds the loss of
    the sample.

    Args:
        merged_scores: Per-example scores of the merged model in [0, 1], shape [n].
        expert_scores: Per-example scores of the expert on the same examples, shape [n].
        confidence: Two-sided level, in (0, 1).
        binary: Whether the metric knows no scores but 0 and 1; None for what the scores show. A
            graded metric whose scores merely happen to be 0 and 1 needs False.

    Returns:
        The lower end, at least -100, and the upper end, which may be infinite.

    Raises:
        Undefined: ``expert_score_zero``.
        ValueError: Empty or unequal scores, scores outside [0, 1] or, where ``binary``, between
            0 and 1, or a bad level.
    """
    merged, expert = _checks.paired_scores(
        {"merged_scores": merged_scores, "expert_scores": expert_scores}
    )
    tail = (1 - _checks.fraction("confidence", confidence)) / 2
    if not (binary is None or isinstance(binary, bool)):
        raise ValueError(f"binary must be True, False or None, got {binary!r}")
    _require_positive(float(expert.sum()))
    whole = bool(np.isin([merged, expert], (0.0, 1.0)).all())
    if binary and not whole:
        raise ValueError("scores of a binary metric must be 0 or 1")
    low, high = ratio_bounds(merged, expert, (tail, tail))
    if whole if binary is None else binary:
        right = expert == 1
        lost = int((merged[right] == 0).sum())
        low = 1 - disagreement_bound(lost, int(right.sum()), confidence=1 - tail)
    return 100 * (low - 1), 100 * (high - 1)


def retention(merged: float, expert: float, chance: float) -> float:
    """Return the chance-corrected retention κ = (merged - chance) / (expert - chance).

    1 where nothing is lost, 0 at chance level, negative below it (THEORY section 1).

    Raises:
        Undefined: ``expert_not_above_chance``.
        ValueError: A score is NaN or infinite, or float64 cannot hold the retention.
    """
    merged, expert = _checks.finite("merged", merged), _checks.finite("expert", expert)
    chance = _checks.finite("chance", chance)
    above = expert - chance
    if above <= _CHANCE_TOLERANCE * max(abs(expert), abs(chance)):
        raise Undefined(
            "expert_not_above_chance",
            f"retention needs an expert above chance: it scores {expert}, chance is {chance}",
        )
    return _checks.ratio("the retention", merged - chance, above)


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
        ValueError: No losses, one that is NaN or infinite, or float64 cannot hold their mean.
    """
    values = _checks.sample("losses", _checks.items("losses", losses))
    with np.errstate(over="ignore"):  # infinity is refused
        mean = _checks.ratio("the mean loss", float(values.sum()), len(values))
    return PoolLoss(mean=mean, worst=float(values.min()))


def _require_positive(expert: float) -> None:
    if expert == 0:
        raise Undefined("expert_score_zero", "the merging loss needs an expert score above 0")
    if expert < 0:
        raise Undefined(
            "expert_score_negative",
            f"the merging loss is a ratio of scores and needs one above 0, got {expert}",
        )
