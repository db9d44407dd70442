"""How well a score orders the experts of one merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import _checks
from .undefined import Undefined

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class WorstHit:
    """Whether a score names the expert that lost most."""

    hit: float
    """1 or 0; where several share the highest score, the share of them that lost most"""
    chance: float
    """What drawing an expert at random would score"""


def worst_hit(scores: npt.ArrayLike, losses: npt.ArrayLike) -> WorstHit:
    """Return whether the highest score is that of the worst loss (losses are negative percent).

    Raises:
        Undefined: ``no_worst_task``, all losses are equal.
        ValueError: Not two vectors of one length of two or more, or NaN.
    """
    score, loss = _both(scores, losses)
    worst, named = loss == loss.min(), score == score.max()
    if worst.all():
        raise Undefined("no_worst_task", "every expert lost the same")
    return WorstHit(hit=float(worst[named].mean()), chance=float(worst.mean()))


def spearman(scores: npt.ArrayLike, losses: npt.ArrayLike) -> float:
    """Return Spearman's rank correlation; an infinite score is the highest rank.

    Raises:
        Undefined: ``no_order``, scores or losses are all equal.
        ValueError: Not two vectors of one length of two or more, or NaN.
    """
    from scipy.stats import rankdata  # not before it is needed: the first stage does without

    first, second = (rankdata(each) for each in _both(scores, losses))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        raise Undefined("no_order", "scores or losses are all equal")
    return float(np.corrcoef(first, second)[0, 1])


def _both(
    scores: npt.ArrayLike, losses: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    score, loss = _checks.numbers("scores", scores), _checks.numbers("losses", losses)
    if score.ndim != 1 or score.shape != loss.shape or len(score) < 2:
        raise ValueError("scores and losses must be two vectors of one length, two or more")
    if np.isnan(score).any() or np.isnan(loss).any():
        raise ValueError("scores and losses must not be NaN")
    return score, loss
