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
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_mergegate.history.calibration.observations import SAME

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

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
    steps = isotonic_regression(mean, weights=weight, increasing=False).blocks[:-1]
    heavy, middle, level = (np.add.reduceat(weight * of, steps) for of in (1.0, at, mean))
    return Curve(at=tuple((middle / heavy).tolist()), values=tuple((level / heavy).tolist()))


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


def fit_effects(
    residuals: Floats, used: Flags, methods: Sequence[str], experts: Sequence[str]
) -> list[Fitted]:
    """Two crossed random effects, their variances estimated by expectation maximisation.

    Henderson's equations are solved again and again, for all fits at once: ``residuals`` is
    [fits, points], and ``used`` says which points each fit has; the others have zeros.
    """
    names, place = np.unique(np.asarray(methods), return_inverse=True)
    others, other_place = np.unique(np.asarray(experts), return_inverse=True)
    split, points = len(names), np.arange(len(place))
    design = np.zeros((len(place), split + len(others)))
    design[points, place] = design[points, split + other_place] = 1.0
    gram = np.array([design[each].T @ design[each] for each in used])
    right = residuals @ design
    diagonal = np.arange(gram.shape[-1])
    counts, total = gram[:, diagonal, diagonal], used.sum(axis=1)
    kinds = (slice(None, split), slice(split, None))
    there = [(counts[:, kind] > 0).astype(np.float64) for kind in kinds]
    square = (residuals**2).sum(axis=1)
    noise = np.where(square > 0, square / total, 1.0)
    variances = np.repeat(noise[:, None] / 4, 2, axis=1)
    for _ in range(ROUNDS):
        shrunk = np.repeat(noise[:, None] / variances, (split, len(others)), axis=1)
        gram[:, diagonal, diagonal] = counts + shrunk
        inverse = np.linalg.inv(gram)
        means = (inverse @ right[..., None])[..., 0]
        spread = noise[:, None] * inverse[:, diagonal, diagonal]
        noise = np.maximum((square - (means * right).sum(axis=1)) / total, 1e-6)
        for k, kind in enumerate(kinds):
            squares = (means[:, kind] ** 2 + spread[:, kind]) * there[k]
            variances[:, k] = np.maximum(squares.sum(axis=1) / there[k].sum(axis=1), 1e-6)

    def effects(fit: int, kind: int, known: npt.NDArray[np.str_]) -> Effects:
        of = zip(known.tolist(), means[fit, kinds[kind]], spread[fit, kinds[kind]], strict=True)
        found = {name: Effect(mean=float(m), variance=float(v)) for name, m, v in of}
        seen = dict(zip(known.tolist(), there[kind][fit], strict=True))
        return Effects(
            known={name: effect for name, effect in found.items() if seen[name]},
            unseen=Effect(mean=0.0, variance=float(variances[fit, kind])),
        )

    return [
        Fitted(methods=effects(k, 0, names), experts=effects(k, 1, others), noise=float(noise[k]))
        for k in range(len(used))
    ]


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
