"""Predicted loss, and thresholds that control misses (THEORY section 7)."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import Undefined
from .losses import TOTAL_LOSS

# Least squares of the best merging loss on MDS over the paper's 32 task rows: Tables 7-10 with
# GLUE's losses taken as the best of all five methods in Table 2.
INTERCEPT = 13.69
SLOPE = -11.39
RESIDUAL_SD = 14.1
ROWS = 32
MEAN_MDS = 2.2825
SUM_OF_SQUARES_MDS = 63.84

# Above, ½ of 1 and the level may round to 1, whose quantile is infinite.
_SURE = 1 - 1e-6


@dataclass(frozen=True, kw_only=True)
class PredictedLoss:
    """A weak prediction, in percent: never show the point without its interval."""

    loss: float
    """The point on the fitted line, at least -100"""
    low: float
    """Lower end of the prediction interval, at least -100"""
    high: float
    """Upper end of the prediction interval"""


def paper_loss_model(mds: float, *, confidence: float = 0.90) -> PredictedLoss:
    """Return the loss that the paper's rows predict for an expert's MDS.

    loss = 13.69 - 11.39·MDS with residual SD 14.1; the prediction interval of the regression is
    about ±25 at 90% and wider far from the mean MDS of 2.28. It assumes normal residuals; theirs
    have heavier tails, and 27 of the 32 rows (84%) lie in their 90% interval. No loss is below
    -100.

    Args:
        mds: Merging difficulty score, at least 1.
        confidence: Two-sided level of the interval, in (0, 1).

    Raises:
        Undefined: ``infinite_mds``, the line says nothing there.
        ValueError: MDS below 1 or NaN, or beyond what float64 can square.
    """
    confidence = _checks.fraction("confidence", confidence)
    mds = _checks.number("mds", mds)
    if mds == math.inf:
        raise Undefined("infinite_mds", "the fitted line has no value at an infinite MDS")
    _checks.squarable("mds", mds)
    if mds < 1:
        raise ValueError(f"mds must be at least 1, got {mds}")
    loss = INTERCEPT + SLOPE * mds
    leverage = 1 / ROWS + (mds - MEAN_MDS) ** 2 / SUM_OF_SQUARES_MDS
    half = _quantile(confidence) * RESIDUAL_SD * math.sqrt(1 + leverage)
    low, point, high = (max(TOTAL_LOSS, end) for end in (loss - half, loss, loss + half))
    return PredictedLoss(loss=point, low=low, high=high)


def _quantile(confidence: float) -> float:
    """Return how many standard deviations hold so much of Student's t on both sides together."""
    from scipy.special import stdtrit  # not before it is needed: the first stage does without

    if confidence > _SURE:
        return -float(stdtrit(ROWS - 2, (1 - confidence) / 2))
    return float(stdtrit(ROWS - 2, (1 + confidence) / 2))


def miss_controlled_threshold(
    collapse_scores: ArrayLike, miss_rate: float, *, pools: Sequence[Hashable] | None = None
) -> float:
    """Return the score at or above which to block, missing at most a share of collapses.

    The m-th smallest of the k recorded collapses' scores, m = ⌊a(k + 1)⌋: a new collapse,
    exchangeable with those, scores below it with probability at most a. Exact ties with the
    threshold are blocked. Collapses of one pool come together and are not exchangeable: with
    ``pools`` each pool counts once, by its lowest score (THEORY section 9), and k is how many
    pools there are.

    Args:
        collapse_scores: Scores of recorded collapses, higher meaning riskier, shape [n]; an
            infinite score (an MDS) is allowed, and so may be the threshold.
        miss_rate: The share a, in (0, 1).
        pools: What each collapse is of, length n; None where every collapse is of its own.

    Raises:
        Undefined: ``needs_more_collapses``, with the number needed in the message.
        ValueError: A score is NaN or minus infinity, as many pools as scores are not given, or a
            bad miss rate.
    """
    miss_rate = _checks.fraction("miss_rate", miss_rate)
    scores = np.asarray(collapse_scores, dtype=np.float64)
    if scores.ndim != 1 or np.isnan(scores).any() or (scores == -np.inf).any():
        raise ValueError("collapse_scores must be a vector without NaN or minus infinity")
    order = np.argsort(scores)
    scores = scores[order]
    if pools is not None:
        names = _checks.items("pools", pools)
        if len(scores) != len(names):
            raise ValueError(f"pools must have one entry per score, got {len(names)}")
        lowest: dict[Hashable, float] = {}
        for index, score in zip(order.tolist(), scores.tolist(), strict=True):
            lowest.setdefault(names[index], score)
        scores = np.array([*lowest.values()])
    rank = miss_controlled_rank(scores.size, miss_rate)
    if rank == 0:
        needed = -_floor(-1 / miss_rate) - 1
        raise Undefined(
            "needs_more_collapses",
            f"cannot certify: needs k ≥ {needed} collapses for a miss rate of {miss_rate:g}, "
            f"{scores.size} recorded" + (" in different pools" if pools is not None else ""),
        )
    return float(scores[rank - 1])


def miss_controlled_rank(collapses: int, miss_rate: float) -> int:
    """Return m = ⌊a(k + 1)⌋, the rank of the threshold among k collapses' scores; 0 for none."""
    rank = _floor(_checks.fraction("miss_rate", miss_rate) * (collapses + 1))
    return min(rank, collapses)


def _floor(value: float) -> int:
    """Return ⌊value⌋ of a product that float arithmetic may have left just below a whole."""
    nearest = round(value)
    if math.isclose(value, nearest, rel_tol=1e-12):
        return nearest
    return math.floor(value)
