"""How well a score ranks what collapsed above what did not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

RESAMPLES, SEED = 2000, 0


def auroc(
    scores: npt.ArrayLike, collapsed: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """The chance that a collapsed point scores above a kept one; a tie counts one half.

    ``weights`` say how often each point counts. NaN where only one kind is there.
    """
    place, bad = _places(scores), np.asarray(collapsed, dtype=bool)
    return _auroc(place, bad, np.ones(len(bad)) if weights is None else np.asarray(weights))


def auroc_interval(
    scores: npt.ArrayLike, collapsed: npt.ArrayLike, pools: Sequence[str]
) -> tuple[float, float]:
    """95 % bootstrap interval over pools: the points of one pool come and go together."""
    _, pool = np.unique(np.asarray(pools), return_inverse=True)
    count = int(pool.max()) + 1
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    place, bad = _places(scores), np.asarray(collapsed, dtype=bool)
    found = [_auroc(place, bad, times[pool]) for times in drawn]
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


def _places(scores: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """0 for the lowest score and one more for each that differs; equal scores share a place."""
    return np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)[1]


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
    place, bad = _places(scores), np.asarray(collapsed, dtype=bool)
    times = np.ones(len(bad)) if weights is None else np.asarray(weights, dtype=np.float64)
    lost, every = (np.bincount(place, weights=times * kind)[::-1] for kind in (bad, bad | True))
    raised, caught = np.cumsum(every), np.cumsum(lost)
    if not caught.size or caught[-1] == 0:
        return float("nan")
    there = raised > 0
    return float((caught[there] / raised[there]) @ lost[there] / caught[-1])


def rates(raised: npt.ArrayLike, collapsed: npt.ArrayLike) -> tuple[float, float]:
    """Recall, and the share of kept points that raised an alarm; NaN where there are none."""
    alarm, bad = np.asarray(raised, dtype=bool), np.asarray(collapsed, dtype=bool)
    return _share(alarm[bad]), _share(alarm[~bad])


def _share(which: npt.NDArray[np.bool_]) -> float:
    return float(which.mean()) if len(which) else float("nan")
