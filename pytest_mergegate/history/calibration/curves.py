"""From a score to the mean loss at it, to how far losses lie from that mean there, and how far one
has to go for enough recorded merges to speak of it.

An interval over all merges holds on average, and says nothing where there were none: among merges
that all kept their experts, it would promise as much to one that answers everything differently.
Losses only get worse with the score. So the worst that is to be expected at a score is what is
expected a little further on, with enough merges on the way; beyond them it is everything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from pytest_mergegate.history.calibration.observations import SAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


NEIGHBOURS: Final = 0.1
"""Share of the points whose residuals make the scale at a score."""
LEAST_NEIGHBOURS: Final = 15
PRIOR: Final = 3.0
"""Points' worth of the overall scale that every local one is drawn towards."""
LEAST_SCALE: Final = 0.25
"""Percent: a loss on a few hundred examples says no more."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A function of the score, straight between its knots and level beyond them."""

    at: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, scores: npt.ArrayLike) -> Floats:
        """The values at some scores."""
        found: Floats = np.interp(np.asarray(scores, dtype=np.float64), self.at, self.values)
        return found


def fit_link(scores: Floats, losses: Floats, weights: Floats) -> Curve:
    """The mean loss at a score; the riskier, the less.

    Isotonic regression, straight between the middles of its steps.
    """
    from scipy.optimize import isotonic_regression

    at, place = np.unique(scores, return_inverse=True)
    weight = np.bincount(place, weights=weights)
    mean = np.bincount(place, weights=weights * losses) / weight
    blocks = isotonic_regression(mean, weights=weight, increasing=False).blocks
    knots: list[tuple[float, float]] = []
    for start, end in pairwise(blocks):
        part = slice(start, end)
        middle = float(np.average(at[part], weights=weight[part]))
        knots.append((middle, float(np.average(mean[part], weights=weight[part]))))
    return Curve(at=tuple(x for x, _ in knots), values=tuple(y for _, y in knots))


def fit_scale(scores: Floats, residuals: Floats, weights: Floats) -> Curve:
    """How far losses lie from the mean at a score: the mean size of its neighbours' residuals."""
    order = np.lexsort((residuals, scores))  # the same whatever the order of the points
    size, weight, at = np.abs(residuals)[order], weights[order], scores[order]
    overall = float(np.average(size, weights=weight))
    half = max(LEAST_NEIGHBOURS, round(NEIGHBOURS * len(at))) / 2
    sums = np.concatenate([[0.0], np.cumsum(size * weight)])
    counts = np.concatenate([[0.0], np.cumsum(weight)])
    knots = np.unique(at)
    # all that share a score share its neighbours, half of them on either side
    low = np.maximum(0, np.searchsorted(at, knots, "left") - int(half))
    high = np.minimum(len(at), np.searchsorted(at, knots, "right") + int(half))
    prior = PRIOR * float(np.mean(weight))
    local = (sums[high] - sums[low] + prior * overall) / (counts[high] - counts[low] + prior)
    values = np.maximum(local, LEAST_SCALE)
    return Curve(at=tuple(knots.tolist()), values=tuple(values.tolist()))


ENOUGH: Final = 3
"""Merges."""


def reaches(
    risks: Floats, merges: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float | None, ...], tuple[float | None, ...]]:
    """Every recorded score, and up and down to which other one there are enough merges."""
    order = np.argsort(risks, kind="stable")
    values, names = risks[order].tolist(), [merges[k] for k in order]
    at, first, counts = np.unique(risks[order], return_index=True, return_counts=True)
    last = first + counts - 1
    up = tuple(_reach(values, names, range(k, len(values))) for k in first.tolist())
    down = tuple(_reach(values, names, range(k, -1, -1)) for k in last.tolist())
    return tuple(at.tolist()), up, down


def _reach(values: Sequence[float], names: Sequence[str], way: Iterable[int]) -> float | None:
    met: set[str] = set()
    for k in way:
        met.add(names[k])
        if len(met) == ENOUGH:
            return values[k]
    return None


def around(
    risk: float,
    risks: Sequence[float],
    riskier: Sequence[float | None],
    safer: Sequence[float | None],
) -> tuple[float | None, float | None]:
    """Up and down to where there are enough merges from ``risk``; None for nowhere."""
    slack = SAME * abs(risk) if math.isfinite(risk) else 0.0
    above = int(np.searchsorted(risks, risk - slack, "left"))
    below = int(np.searchsorted(risks, risk + slack, "right")) - 1
    up = riskier[above] if above < len(risks) else None
    return up, safer[below] if below >= 0 else None
