"""Losses predicted from a score: loss ~ method + expert + score, with intervals that hold.

Effects are in scales of the residuals at a score, so that where the score leaves nothing open they
leave nothing open either. Intervals are conformal over whole merges: how far a merge's losses lie
from what others predict for them, each merge with the same weight, one more with all its losses
at infinity (a hierarchical conformal quantile).
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from pytest_mergegate.history.calibration.observations import Observation, as_risk, comparison_of
from pytest_mergegate.history.calibration.parts import (
    Curve,
    Fitted,
    around,
    fit_effects,
    fit_link,
    fit_scale,
    reaches,
)
from pytest_mergegate.metrics import Undefined
from pytest_mergegate.metrics.losses import TOTAL_LOSS

Floats = npt.NDArray[np.float64]

FOLDS: Final = 20
"""How often the fit is made again, without a share of the merges, for the residuals."""
LEAST_POOLS: Final = 10
"""From so many on whole pools are left out together, not only merges."""
Groups = Literal["merges", "pools", "beds"]
Source = Literal["registry", "beds"]


@dataclass(frozen=True, kw_only=True)
class CalibratedLoss:
    """A loss that was not measured, in percent, with its interval."""

    loss: float
    low: float
    """At least -100."""
    high: float
    merges: int
    """How many recorded merges it rests on."""
    source: Source


@dataclass(frozen=True, kw_only=True)
class FittedLosses:
    """The fit without its intervals."""

    link: Curve
    scale: Curve
    effects: Fitted

    def expected(self, method: str, expert: str, risks: npt.ArrayLike) -> Floats:
        """The losses at some scores; the riskier, the less."""
        shift = self.effects.methods.of(method).mean + self.effects.experts.of(expert).mean
        at, link, scale = self._knots
        # where the scale falls, an effect fades, and must not turn the curve
        values = np.minimum.accumulate(link + shift * scale)
        found: Floats = np.interp(np.asarray(risks, dtype=np.float64), at, values)
        return np.maximum(found, TOTAL_LOSS)

    @cached_property
    def _knots(self) -> tuple[Floats, Floats, Floats]:
        """Where either curve bends, and both there."""
        at: Floats = np.unique(np.concatenate([self.link.at, self.scale.at]))
        return at, self.link(at), self.scale(at)

    def spread(self, method: str, expert: str, risks: npt.ArrayLike) -> Floats:
        """How far losses may lie from it: more for a method or an expert that was never seen."""
        effects = self.effects
        left = effects.methods.of(method).variance + effects.experts.of(expert).variance
        return self.scale(risks) * math.sqrt(left + effects.noise)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fit with its intervals."""

    score: str
    confidence: float
    model: FittedLosses
    quantile: float
    """Spreads on either side."""
    merges: int
    observations: int
    groups: Groups
    """What was left out together."""
    source: Source
    risks: tuple[float, ...]
    """Every score that was recorded, turned where less is riskier."""
    riskier: tuple[float | None, ...]
    """Up to which score there are enough merges from there; None where there are not."""
    safer: tuple[float | None, ...]
    """Down to which, likewise."""

    def predict(self, method: str, expert: str, score: float) -> CalibratedLoss:
        """The loss of an expert under a method.

        Args:
            method: With its parameters, as reports name it.
            expert: Its fingerprint.
            score: Its ``self.score``; may be infinite.

        Raises:
            ValueError: The score is NaN.
        """
        if math.isnan(score):
            raise ValueError(f"{self.score} must be a number, got {score}")
        risk = as_risk(self.score, score)
        # as wide as it takes for enough merges to speak of it, on either side
        up, down = around(risk, self.risks, self.riskier, self.safer)
        at = [risk, risk if up is None else up, risk if down is None else down]
        expected = self.model.expected(method, expert, at)
        half = self.quantile * self.model.spread(method, expert, at)
        (low, worst, _), (high, _, best) = (expected - half).tolist(), (expected + half).tolist()
        return CalibratedLoss(
            loss=float(expected[0]),
            low=max(TOTAL_LOSS, min(TOTAL_LOSS if up is None else worst, low)),
            high=max(TOTAL_LOSS, 0.0 if down is None else best, high),
            merges=self.merges,
            source=self.source,
        )


def calibrate(
    observations: Sequence[Observation], score: str = "disagreement", confidence: float = 0.90
) -> Calibration:
    """Fit the losses that ``observations`` had at a score.

    Raises:
        Undefined: ``needs_more_merges``, with the number in the message.
        ValueError: A level that is not in (0, 1).
    """
    return Residuals(observations, score).calibration(confidence)


class Residuals:
    """What intervals at every confidence are made of; fitted when it is first asked for."""

    def __init__(self, observations: Sequence[Observation], score: str) -> None:
        comparison_of(observations)
        self.score = score
        self._of = observations

    def calibration(self, confidence: float) -> Calibration:
        """The fit with intervals at that confidence; raises as ``calibrate`` does."""
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
        used = with_score(self._of, self.score, confidence)
        of_merges = [one.merge for one in used]
        risks, riskier, safer = reaches(_finite(_risks(used, self.score)), of_merges)
        groups, model, distances = self._fit
        return Calibration(
            score=self.score,
            confidence=confidence,
            model=model,
            quantile=_quantile(used, distances, confidence),
            merges=len({one.merge for one in used}),
            observations=len(used),
            groups=groups,
            source="registry" if any(not one.bed for one in used) else "beds",
            risks=risks,
            riskier=riskier,
            safer=safer,
        )

    @cached_property
    def _fit(self) -> tuple[Groups, FittedLosses, Floats]:
        used = [one for one in self._of if self.score in one.scores]
        groups, risks = grouping(used), _risks(used, self.score)
        parts = folds(used, groups)
        whole, *others = _fits(
            used, risks, np.array([np.ones(len(used), bool), *(~f for f in parts)])
        )
        return groups, whole, _distances(used, _finite(risks), parts, others)


def with_score(
    observations: Sequence[Observation], score: str, confidence: float
) -> list[Observation]:
    """Those that have the score. Raises Undefined where they are of too few merges."""
    used = [one for one in observations if score in one.scores]
    merges, needed = len({one.merge for one in used}), merges_needed(confidence)
    if merges < needed:
        raise Undefined(
            "needs_more_merges",
            f"an interval at {100 * confidence:.3g}% needs {needed} recorded merges with {score}, "
            f"there are {merges}",
        )
    return used


def merges_needed(confidence: float) -> int:
    """The fewest merges that give an interval at a level: c (M + 1) ≤ M, and one to leave out."""
    return max(2, math.ceil(round(confidence / (1 - confidence), 9)))


def grouping(observations: Sequence[Observation]) -> Groups:
    """What to leave out together: what a new merge will not share with those of the past."""
    if len({one.bed for one in observations}) > 1:
        return "beds"
    return "pools" if len({one.pool for one in observations}) >= LEAST_POOLS else "merges"


def _fits(
    observations: Sequence[Observation], risks: Floats, used: npt.NDArray[np.bool_]
) -> list[FittedLosses]:
    """A fit on each row's part of the observations."""
    losses = np.array([one.loss for one in observations])
    weights = merge_weights(observations)
    residuals, curves = np.zeros(used.shape), []
    for row, part in zip(residuals, used, strict=True):
        at = _finite(risks[part])
        link = fit_link(at, losses[part], weights[part])
        left = losses[part] - link(at)
        scale = fit_scale(at, left, weights[part])
        row[part] = left / scale(at)
        curves.append((link, scale))
    effects = fit_effects(
        residuals,
        used,
        [one.label for one in observations],
        [one.expert for one in observations],
    )
    return [
        FittedLosses(link=link, scale=scale, effects=each)
        for (link, scale), each in zip(curves, effects, strict=True)
    ]


def _risks(observations: Sequence[Observation], score: str) -> Floats:
    return np.array([one.risk(score) for one in observations], dtype=np.float64)


def _finite(risks: Floats) -> Floats:
    """The scores to fit on; infinite ones lie a little beyond the largest."""
    finite = risks[np.isfinite(risks)]
    beyond = finite.max() + max(0.1 * np.ptp(finite), 1e-3) if finite.size else 0.0
    return np.where(np.isfinite(risks), risks, beyond)


def merge_weights(observations: Sequence[Observation]) -> Floats:
    """The same for every merge, shared between its experts."""
    counts = Counter(one.merge for one in observations)
    return np.array([1 / counts[one.merge] for one in observations])


def _distances(
    observations: Sequence[Observation],
    risks: Floats,
    parts: Sequence[npt.NDArray[np.bool_]],
    models: Sequence[FittedLosses],
) -> Floats:
    """How many spreads each loss lies from what the model of the other groups predicts."""
    found = np.zeros(len(observations))
    for part, model in zip(parts, models, strict=True):
        for k in np.flatnonzero(part).tolist():
            one = observations[k]
            at = (one.label, one.expert, risks[k])
            found[k] = abs(one.loss - model.expected(*at)) / model.spread(*at)
    return found


def folds(observations: Sequence[Observation], groups: Groups) -> list[npt.NDArray[np.bool_]]:
    """Which observations are left out each time; no group is ever torn."""
    keys = [getattr(one, groups.removesuffix("s")) for one in observations]
    order = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode()).digest())
    place = {key: k % FOLDS for k, key in enumerate(order)}
    of = np.array([place[key] for key in keys])
    return [of == k for k in range(min(FOLDS, len(order)))]


def _quantile(observations: Sequence[Observation], distances: Floats, confidence: float) -> float:
    """The distance that so large a share of the merges' weight does not exceed, one more at ∞."""
    weights = merge_weights(observations)
    order = np.argsort(distances)
    share = np.cumsum(weights[order]) / (weights.sum() + 1)
    place = int(np.searchsorted(share, confidence - 1e-9))
    return float(distances[order][place])
