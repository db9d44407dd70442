"""The parts of a fit: the mean loss at a score, how far losses lie from it there, what methods and
experts add, and how far one has to go for enough recorded merges to speak of a score.

An interval over all merges holds on average, and says nothing where there were none: among merges
that all kept their experts, it would promise as much to one that answers everything differently.
Losses only get worse with the score. So the worst that is to be expected at a score is what is
expected a little further on, with enough merges on the way; beyond them it is everything.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_mergegate.history.calibration.observations import SAME

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


ROUNDS: Final = 60
"""Of expectation maximisation; by then nothing moves."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What is known of one method or one expert, in scales of the residuals."""

    mean: float
    variance: float


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Of one kind: the methods, or the experts."""

    known: Mapping[str, Effect]
    unseen: Effect

    def of(self, name: str) -> Effect:
        """That of ``name``; of one that was not seen no more than how far they differ."""
        return self.known.get(name, self.unseen)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Both kinds, and what they leave over."""

    methods: Effects
    experts: Effects
    noise: float
    """Variance."""


def fit_effects(residuals: Floats, methods: Sequence[str], experts: Sequence[str]) -> Fitted:
    """Two crossed random effects, their variances estimated by expectation maximisation.

    Henderson's equations are solved again and again.
    """
    names, place = np.unique(np.asarray(methods), return_inverse=True)
    others, other_place = np.unique(np.asarray(experts), return_inverse=True)
    split, count = len(names), len(residuals)
    design = np.zeros((count, split + len(others)))
    design[np.arange(count), place] = design[np.arange(count), split + other_place] = 1.0
    gram, right = design.T @ design, design.T @ residuals
    counts, diagonal = np.diag(gram).copy(), np.diag_indices(len(gram))
    parts, sizes = (slice(None, split), slice(split, None)), (split, len(others))
    noise, square = float(np.mean(residuals**2)) or 1.0, float(residuals @ residuals)
    variances = [noise / 4, noise / 4]
    for _ in range(ROUNDS):
        gram[diagonal] = counts + np.repeat(noise / np.array(variances), sizes)
        inverse = np.linalg.inv(gram)
        means = inverse @ right
        spread = noise * inverse.diagonal()
        noise = max((square - float(means @ right)) / count, 1e-6)
        squares = means**2 + spread
        variances = [max(float(squares[part].mean()), 1e-6) for part in parts]

    def effects(known: npt.NDArray[np.str_], part: slice, unseen: float) -> Effects:
        pairs = zip(means[part].tolist(), spread[part].tolist(), strict=True)
        found = (Effect(mean=mean, variance=variance) for mean, variance in pairs)
        return Effects(
            known=dict(zip(known.tolist(), found, strict=True)),
            unseen=Effect(mean=0.0, variance=unseen),
        )

    return Fitted(
        methods=effects(names, parts[0], variances[0]),
        experts=effects(others, parts[1], variances[1]),
        noise=noise,
    )


ENOUGH: Final = 3
"""Merges."""


def reaches(
    risks: Floats, merges: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float | None, ...], tuple[float | None, ...]]:
    """Every recorded score, and up and down to which other one there are enough merges."""
    order = np.argsort(risks, kind="stable")
    values, names = risks[order].tolist(), [merges[k] for k in order]

    def reach(way: Iterable[int]) -> float | None:
        met: set[str] = set()
        for k in way:
            met.add(names[k])
            if len(met) == ENOUGH:
                return float(values[k])
        return None

    at = tuple(dict.fromkeys(values))
    up = tuple(reach(range(bisect_left(values, risk), len(values))) for risk in at)
    down = tuple(reach(range(bisect_right(values, risk) - 1, -1, -1)) for risk in at)
    return at, up, down


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
