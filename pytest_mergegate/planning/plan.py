"""The plan of a pool: its curve, groups that pass, what to leave out, what to replace."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_mergegate import metrics
from pytest_mergegate.metrics import CurvePoint
from pytest_mergegate.planning.forecaster import Forecaster
from pytest_mergegate.planning.forecasts import (
    GroupForecast,
    PlanRecord,
    ReplacementRecord,
    StandInRecord,
    curve_records,
    group_record,
)
from pytest_mergegate.planning.search import (
    Group,
    Grouping,
    LeftOut,
    TriedGroups,
    fewest_groups,
    fewest_left_out,
    mask_of,
)

MOST_TRIALS = 200
Order = Literal["forecast", "mds"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The merges that would pass in place of one of the whole pool."""

    names: tuple[str, ...]
    curve: tuple[CurvePoint, ...]
    """Distortion by number of merged models, whatever the budget."""
    groups: tuple[GroupForecast, ...]
    """The fewest groups that are forecast to pass, the largest first."""
    at_least: int
    """Fewer groups than these do not do, as far as a group that holds a failing one fails."""
    whole: GroupForecast
    """The whole pool as one merge."""
    drop: tuple[str, ...]
    """Experts to leave out so that the others pass as one merge."""
    drop_at_least: int | None
    """Leaving out fewer than these does not do; None where no two experts pass together."""
    tried: int
    """Groups that were tried."""
    most: int
    """So many might have been."""

    @property
    def found(self) -> bool:
        """Whether there is a merge at all to propose, and every group of it is forecast to pass."""
        merged = any(len(group.names) > 1 for group in self.groups)
        return merged and all(group.status == "pass" for group in self.groups)

    @property
    def ran_out(self) -> bool:
        """Whether there were too few trials to be sure that no fewer groups do."""
        return self.tried >= self.most and self.at_least < len(self.groups)

    def record(self, replacements: Iterable[ReplacementRecord] = ()) -> PlanRecord:
        """All of it for others to read."""
        return PlanRecord.of(
            self,
            curve=curve_records(self.curve, self.names),
            groups=tuple(map(group_record, self.groups)),
            replacements=tuple(replacements),
        )


def make_plan(forecaster: Forecaster, names: Sequence[str], most: int = MOST_TRIALS) -> Plan:
    """Plan for those experts of the forecaster's pool."""
    trials = TriedGroups(forecaster, most, names)
    found = _confirmed_groups(forecaster, trials, len(names))
    left_out = _confirmed_rest(forecaster, trials, len(names), found.groups)
    groups = [forecaster.forecast(trials.named(group)) for group in found.groups]
    return Plan(
        names=tuple(names),
        curve=tuple(metrics.distortion_curve(forecaster.shares.squared(names))),
        groups=tuple(sorted(groups, key=lambda g: -len(g.names))),
        at_least=found.at_least,
        whole=forecaster.forecast(names, own_shares=True),
        drop=trials.named(left_out.dropped) if left_out is not None else (),
        drop_at_least=left_out.at_least if left_out is not None else None,
        tried=len(trials.known),
        most=most,
    )


def _confirmed_groups(forecaster: Forecaster, trials: TriedGroups, count: int) -> Grouping:
    """The fewest groups, searched anew without those that fail once they are merged."""
    while True:
        found = fewest_groups(count, trials)
        merged = [group for group in found.groups if len(group) > 1]
        failing = [group for group in merged if not forecaster.confirmed(trials.named(group))]
        if not failing:
            return found
        for group in failing:
            trials.note_failure(mask_of(group))


def _confirmed_rest(
    forecaster: Forecaster, trials: TriedGroups, count: int, groups: Sequence[Group]
) -> LeftOut | None:
    while True:
        found = fewest_left_out(count, trials, groups)
        if found is None or forecaster.confirmed(trials.named(found.kept)):
            return found
        trials.note_failure(mask_of(found.kept))


def find_replacements(
    forecaster: Forecaster, whole: GroupForecast, candidates: Sequence[str]
) -> tuple[ReplacementRecord, ...]:
    """The paper's task selection: the candidates in the place of the expert that the forecast says
    is worst off, and in that of the one whose MDS is largest; the latter only where MDS is defined.
    """
    worst = whole.best.worst if whole.best is not None else None
    mds = _difficulties(forecaster, whole.names)
    replaced: dict[Order, str | None] = {
        "forecast": worst.name if worst is not None else None,
        "mds": max(mds, key=lambda name: mds[name], default=None),
    }
    return tuple(
        ReplacementRecord(
            order=order,
            replaced=name,
            candidates=_ranked(forecaster, whole.names, name, candidates, order),
        )
        for order, name in replaced.items()
        if name is not None
    )


def _ranked(
    forecaster: Forecaster,
    names: Sequence[str],
    replaced: str,
    candidates: Sequence[str],
    order: Order,
) -> tuple[StandInRecord, ...]:
    """The candidates, the best first: by their pool's forecast, or by their MDS in it."""
    ranked: list[tuple[tuple[float, ...], StandInRecord]] = []
    for candidate in candidates:
        pool = [candidate if name == replaced else name for name in names]
        forecast = forecaster.forecast(pool, own_shares=True)
        mds = _difficulties(forecaster, pool).get(candidate, math.inf)
        record = StandInRecord(
            name=candidate,
            mds=mds if math.isfinite(mds) else None,
            pool=group_record(forecast),
        )
        ranked.append((forecast.rank if order == "forecast" else (mds,), record))
    return tuple(record for _, record in sorted(ranked, key=lambda pair: pair[0]))


def _difficulties(forecaster: Forecaster, names: Sequence[str]) -> dict[str, float]:
    """MDS by expert in a group; empty where it is not defined."""
    scores = forecaster.pool_limits.parts.of(names, intervals=False).mds
    return {name: mds.number for name, mds in scores.items() if mds.number is not None}
