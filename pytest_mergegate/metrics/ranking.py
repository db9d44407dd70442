"""How well a score ranks: what collapsed above what did not, and the experts of one merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks
from ._checks import Undefined
from .resampling import RESAMPLES, cluster_interval

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy.typing as npt


def auroc(
    scores: npt.ArrayLike, collapsed: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """The chance that a collapsed point scores above a kept one; a tie counts one half.

    ``weights`` say how often each point counts. NaN where only one kind is there.
    """
    place, bad = _points(scores, collapsed)
    return _auroc(place, bad, np.ones(len(bad)) if weights is None else np.asarray(weights))


def auroc_interval(
    scores: npt.ArrayLike,
    collapsed: npt.ArrayLike,
    *clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """95 % bootstrap interval: the points of one cluster, a pool, come and go together.

    By several clusterings, each is drawn by itself (``resampling.cluster_interval``).
    """
    place, bad = _points(scores, collapsed)
    return cluster_interval(lambda times: _auroc(place, bad, times), *clusters, resamples=resamples)


def _points(
    scores: npt.ArrayLike, collapsed: npt.ArrayLike
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    place, bad = _places(scores), np.asarray(collapsed, dtype=bool)
    if place.shape != bad.shape:
        raise ValueError(f"scores and collapsed must match, got {place.shape} and {bad.shape}")
    return place, bad


def _places(scores: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """0 for the lowest score and one more for each that differs; equal scores share a place."""
    found = _checks.numbers("scores", scores)
    if found.ndim != 1:
        raise ValueError(f"scores must be a vector, got shape {found.shape}")
    return np.unique(found, return_inverse=True)[1]


def _auroc(place: npt.NDArray[np.intp], bad: npt.NDArray[np.bool_], weights: Any) -> float:
    lost, kept = (np.bincount(place, weights=weights * kind) for kind in (bad, ~bad))
    pairs = lost.sum() * kept.sum()
    below = np.cumsum(kept) - kept
    return float(lost @ (below + kept / 2) / pairs) if pairs else float("nan")


def auprc(
    scores: npt.ArrayLike, collapsed: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Average precision: the precision at each collapsed point's score, averaged over them.

    Points of equal score are raised together. Of a score that says nothing it is about the base
    rate, the share of points that collapsed. NaN where nothing collapsed.
    """
    place, bad = _points(scores, collapsed)
    return _auprc(place, bad, np.ones(len(bad)) if weights is None else np.asarray(weights))


def auprc_interval(
    scores: npt.ArrayLike,
    collapsed: npt.ArrayLike,
    *clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The same for the average precision."""
    place, bad = _points(scores, collapsed)
    return cluster_interval(lambda times: _auprc(place, bad, times), *clusters, resamples=resamples)


def rates(raised: npt.ArrayLike, collapsed: npt.ArrayLike) -> tuple[float, float]:
    """Recall, and the share of kept points that raised an alarm; NaN where there are none."""
    alarm, bad = np.asarray(raised, dtype=bool), np.asarray(collapsed, dtype=bool)
    return _share(alarm[bad]), _share(alarm[~bad])


def _auprc(place: npt.NDArray[np.intp], bad: npt.NDArray[np.bool_], weights: Any) -> float:
    lost = np.bincount(place, weights=weights * bad)[::-1]
    every = np.bincount(place, weights=weights)[::-1]
    raised, caught = np.cumsum(every), np.cumsum(lost)
    if not caught.size or caught[-1] == 0:
        return float("nan")
    there = raised > 0
    return float((caught[there] / raised[there]) @ lost[there] / caught[-1])


def _share(which: npt.NDArray[np.bool_]) -> float:
    return float(which.mean()) if len(which) else float("nan")


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
