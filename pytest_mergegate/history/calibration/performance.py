"""How well each score would have done on the past: thresholds never see the pool they judge."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_mergegate.history.calibration.fit import (
    Groups,
    calibrate,
    folds,
    grouping,
    merge_weights,
    with_score,
)
from pytest_mergegate.history.calibration.observations import (
    SAME,
    Observation,
    as_risk,
    comparison_of,
)
from pytest_mergegate.metrics import Undefined
from pytest_mergegate.metrics.certificates import disagreement_interval
from pytest_mergegate.metrics.prediction import miss_controlled_rank, miss_controlled_threshold
from pytest_mergegate.metrics.ranking import Ranked
from pytest_mergegate.metrics.resampling import cluster_interval

Floats = npt.NDArray[np.float64]

DEFAULT_LIMIT: Final = 0.3
"""A gate's own limit where it names none: a disagreement over it fails."""
SHARES: Final = frozenset({"disagreement", "disagreement_upper", "surrogate", "states"})
"""Scores that are shares of inputs answered differently, and have that limit."""
RESAMPLES: Final = 500
LEAST_POOLS: Final = 5
"""A bootstrap over fewer says nothing."""


@dataclass(frozen=True, kw_only=True)
class EstimatedShare:
    """A share with its 95 % interval."""

    value: float
    interval: tuple[float, float] | None
    """None where there are too few pools to tell."""


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """What blocking at a threshold would have meant."""

    recall: EstimatedShare
    """Of the collapses, how many it would have blocked."""
    false_alarms: EstimatedShare
    """Of what did not collapse."""


@dataclass(frozen=True, kw_only=True)
class Performance:
    """One score on recorded merges."""

    score: str
    observations: int
    pools: int
    collapses: int
    auroc: EstimatedShare
    auprc: EstimatedShare
    """To be held against ``base_rate``."""
    controlled: Alarms | None
    """At thresholds that control misses, each chosen without the pool that it judges; None where
    there are too few collapses for that."""
    controlled_reason: str | None
    limit: Alarms | None
    """Over the default limit; None for scores that have none."""

    @property
    def base_rate(self) -> float:
        """The share of what collapsed."""
        return self.collapses / self.observations


def performance(
    observations: Sequence[Observation], score: str, miss_rate: float = 0.1
) -> Performance:
    """How well a score would have done on ``observations``.

    Raises:
        Undefined: ``no_scores``, or ``one_kind``: everything collapsed, or nothing did.
    """
    comparison_of(observations)
    used = [one for one in observations if score in one.scores]
    collapsed = np.array([one.collapsed for one in used], dtype=bool)
    if not used:
        raise Undefined("no_scores", f"no recorded merge has {score}")
    if len(set(collapsed.tolist())) < 2:
        kind = "all" if collapsed[0] else "none"
        raise Undefined("one_kind", f"{kind} of the {len(used)} recorded losses are collapses")
    risks = np.array([one.risk(score) for one in used], dtype=np.float64)
    ranked = Ranked(risks, collapsed)
    pools = [one.pool for one in used]
    controlled, why = _controlled(used, score, miss_rate)
    return Performance(
        score=score,
        observations=len(used),
        pools=len(set(pools)),
        collapses=int(collapsed.sum()),
        auroc=_estimate(ranked.auroc, pools),
        auprc=_estimate(ranked.auprc, pools),
        controlled=controlled,
        controlled_reason=why,
        limit=_alarms(used, risks > DEFAULT_LIMIT) if score in SHARES else None,
    )


def _controlled(
    observations: Sequence[Observation], score: str, miss_rate: float
) -> tuple[Alarms | None, str | None]:
    alarms = np.zeros(len(observations), dtype=bool)
    for pool in sorted({one.pool for one in observations}):
        try:
            found = miss_controlled([o for o in observations if o.pool != pool], score, miss_rate)
        except Undefined as error:
            return None, f"{error}, when one pool is left out"
        for k, one in enumerate(observations):
            if one.pool == pool:
                alarms[k] = found.blocks(one.scores[score])
    return _alarms(observations, alarms), None


def _alarms(observations: Sequence[Observation], alarms: npt.NDArray[np.bool_]) -> Alarms:
    collapsed = np.array([one.collapsed for one in observations], dtype=bool)
    pools = np.array([one.pool for one in observations])
    return Alarms(
        recall=_share(alarms[collapsed], pools[collapsed].tolist()),
        false_alarms=_share(alarms[~collapsed], pools[~collapsed].tolist()),
    )


def _share(which: npt.NDArray[np.bool_], pools: Sequence[str]) -> EstimatedShare:
    """With the wider ends of Clopper-Pearson's interval, which takes points for independent, and of
    the bootstrap over pools, which is a point where all or none are in."""
    exact = disagreement_interval(int(which.sum()), len(which))
    drawn = _estimate(lambda times: float(times[which].sum() / times.sum()), pools).interval
    interval = drawn and (min(exact[0], drawn[0]), max(exact[1], drawn[1]))
    return EstimatedShare(value=float(which.mean()), interval=interval)


def _estimate(statistic: Callable[[Floats], float], pools: Sequence[str]) -> EstimatedShare:
    interval = None
    if len(set(pools)) >= LEAST_POOLS:
        interval = cluster_interval(statistic, pools, resamples=RESAMPLES)
    return EstimatedShare(value=statistic(np.ones(len(pools))), interval=interval)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The value of a score from which on to block."""

    score: str
    miss_rate: float
    value: float
    """In the score's own units; infinite where only an infinite MDS is blocked."""
    collapses: int
    """How many recorded collapses had the score."""
    pools: int
    """Of how many pools these are: each counts once, by its least risky collapse."""
    rank: int
    """The threshold is the score of the so-manieth least risky of them."""

    def blocks(self, value: float) -> bool:
        """Whether a value of the score is at least as risky, to the digits recorded. NaN is."""
        own, other = as_risk(self.score, self.value), as_risk(self.score, value)
        return not other < (own - SAME * abs(own) if math.isfinite(own) else own)


def miss_controlled(observations: Sequence[Observation], score: str, miss_rate: float) -> Threshold:
    """The threshold that a collapse of a new pool falls short of with at most a chance of
    ``miss_rate``.

    Raises:
        Undefined: ``needs_more_collapses``, with the number in the message.
        ValueError: A rate that is not in (0, 1).
    """
    comparison_of(observations)
    collapsed = [one for one in observations if one.collapsed and score in one.scores]
    risks, pools = [one.risk(score) for one in collapsed], [one.pool for one in collapsed]
    found = miss_controlled_threshold(risks, miss_rate, pools=pools)
    count = len(set(pools))
    return Threshold(
        score=score,
        miss_rate=miss_rate,
        value=as_risk(score, found),
        collapses=len(risks),
        pools=count,
        rank=miss_controlled_rank(count, miss_rate),
    )


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What came of it."""

    groups: Groups
    """What was left out together."""
    observations: int
    coverage: float
    """The share of losses in their intervals; merges count alike."""
    width: float
    """Of the intervals, on average, in percentage points."""
    error: float
    """Mean absolute error, in percentage points."""
    constant_error: float
    """The same of the mean loss of the rest."""


def validate(
    observations: Sequence[Observation], score: str = "disagreement", confidence: float = 0.90
) -> Validation:
    """Calibrate without one group after the other (without a twentieth of many) and predict it.

    Raises:
        Undefined: ``needs_more_merges``: too few are left.
    """
    used = with_score(observations, score, confidence)
    groups = grouping(used)
    rows, weights = [], []
    for fold in folds(used, groups):
        rest = [one for one, out in zip(used, fold, strict=True) if not out]
        fitted = calibrate(rest, score, confidence)
        mean = float(np.mean([one.loss for one in rest]))
        own = [one for one, out in zip(used, fold, strict=True) if out]
        weights += merge_weights(own).tolist()
        for one in own:
            told = fitted.predict(one.label, one.expert, one.scores[score])
            held = told.low <= one.loss <= told.high
            errors = (abs(one.loss - told.loss), abs(one.loss - mean))
            rows.append((held, told.high - told.low, *errors))
    held, width, error, constant = np.average(np.array(rows), axis=0, weights=weights).tolist()
    return Validation(
        groups=groups,
        observations=len(rows),
        coverage=held,
        width=width,
        error=error,
        constant_error=constant,
    )
