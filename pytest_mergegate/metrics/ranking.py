"""How well a score ranks: what collapsed above what did not, and the experts of one merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import _checks
from ._checks import Undefined

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]


class Ranked:
    """Points by their scores, the lowest first, which are weighed anew for every resample.

    ``scores`` and ``collapsed`` are vectors of one length, else ValueError is raised; weights say
    how often each point counts.
    """

    def __init__(self, scores: npt.ArrayLike, collapsed: npt.ArrayLike) -> None:
        values, bad = _checks.numbers("scores", scores), np.asarray(collapsed, dtype=bool)
        if values.ndim != 1:
            raise ValueError(f"scores must be a vector, got shape {values.shape}")
        if values.shape != bad.shape:
            raise ValueError(f"scores and collapsed must match, got {values.shape} and {bad.shape}")
        self._place = np.unique(values, return_inverse=True)[1]
        self._kinds = bad.astype(np.float64), (~bad).astype(np.float64)

    def auroc(self, weights: npt.ArrayLike | None = None) -> float:
        """The chance that a collapsed point scores above a kept one; a tie counts one half.

        NaN where only one kind is there.
        """
        lost, kept = self._counts(weights)
        pairs = lost.sum() * kept.sum()
        below = np.cumsum(kept) - kept
        return float(lost @ (below + kept / 2) / pairs) if pairs else float("nan")

    def auprc(self, weights: npt.ArrayLike | None = None) -> float:
        """Average precision: the precision at each collapsed point's score, averaged over them.

        Points of equal score are raised together. Of a score that says nothing it is about the
        base rate, the share of points that collapsed. NaN where nothing collapsed.
        """
        lost, kept = (each[::-1] for each in self._counts(weights))
        raised, caught = np.cumsum(lost + kept), np.cumsum(lost)
        if not caught.size or caught[-1] == 0:
            return float("nan")
        there = raised > 0
        return float((caught[there] / raised[there]) @ lost[there] / caught[-1])

    def _counts(self, weights: npt.ArrayLike | None) -> tuple[Doubles, Doubles]:
        """How many points collapsed at each score that there is, and how many not."""
        times = 1.0 if weights is None else np.asarray(weights, dtype=np.float64)
        lost, kept = (np.bincount(self._place, weights=times * kind) for kind in self._kinds)
        return np.asarray(lost, dtype=np.float64), np.asarray(kept, dtype=np.float64)


def auroc(
    scores: npt.ArrayLike, collapsed: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """``Ranked.auroc`` of points that are weighed once."""
    return Ranked(scores, collapsed).auroc(weights)


def auprc(
    scores: npt.ArrayLike, collapsed: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """``Ranked.auprc`` of points that are weighed once."""
    return Ranked(scores, collapsed).auprc(weights)


def spearman(scores: npt.ArrayLike, losses: npt.ArrayLike) -> float:
    """Return Spearman's rank correlation; an infinite score is the highest rank.

    Raises:
        Undefined: ``no_order``, scores or losses are all equal.
        ValueError: Not two vectors of one length of two or more, or NaN.
    """
    from scipy.stats import rankdata  # not before it is needed: the first stage does without

    score, loss = _checks.numbers("scores", scores), _checks.numbers("losses", losses)
    if score.ndim != 1 or score.shape != loss.shape or len(score) < 2:
        raise ValueError("scores and losses must be two vectors of one length, two or more")
    if np.isnan(score).any() or np.isnan(loss).any():
        raise ValueError("scores and losses must not be NaN")
    if (score == score[0]).all() or (loss == loss[0]).all():
        raise Undefined("no_order", "scores or losses are all equal")
    return float(np.corrcoef(rankdata(score), rankdata(loss))[0, 1])
