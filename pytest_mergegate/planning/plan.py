"""The plan of a pool: its curve, groups that pass, what to leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate import metrics
from pytest_mergegate.planning.leaving_out import LeftOut, fewest_left_out
from pytest_mergegate.planning.search import Grouping, fewest_groups
from pytest_mergegate.planning.tried_groups import TriedGroups, mask_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.metrics import CurvePoint
    from pytest_mergegate.planning.forecaster import Bench
    from pytest_mergegate.planning.outlook import GroupOutlook
    from pytest_mergegate.planning.tried_groups import Group

MOST_TRIALS = 200


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Experts to leave out so that the others pass as one merge."""

    names: tuple[str, ...]
    rest: GroupOutlook
    at_least: int
    """Leaving out fewer than these does not do."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The merges that would pass in place of one of the whole pool."""

    names: tuple[str, ...]
    curve: tuple[CurvePoint, ...]
    """Distortion by number of merged models, whatever the budget."""
    groups: tuple[GroupOutlook, ...]
    """The fewest groups that are forecast to pass, the largest first."""
    at_least: int
    """Fewer groups than these do not do, as far as a group that holds a failing one fails."""
    whole: GroupOutlook
    """The whole pool as one merge."""
    drop: Drop | None
    """None where no two experts pass together."""
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


def make_plan(bench: Bench, names: Sequence[str], most: int = MOST_TRIALS) -> Plan:
    """Plan for those experts of the bench's pool."""
    places = [bench.names.index(name) for name in names]
    trials = TriedGroups(_Chosen(bench, places), most)
    found = _confirmed_groups(bench, names, trials)
    left_out = _confirmed_rest(bench, names, trials, found.groups)
    groups = [bench.outlook([names[k] for k in group]) for group in found.groups]
    drop = None
    if left_out is not None:
        drop = Drop(
            names=tuple(names[k] for k in left_out.dropped),
            rest=bench.outlook([names[k] for k in left_out.kept]),
            at_least=left_out.at_least,
        )
    return Plan(
        names=tuple(names),
        curve=tuple(metrics.distortion_curve(bench.shares.squared(names))),
        groups=tuple(sorted(groups, key=lambda g: -len(g.names))),
        at_least=found.at_least,
        whole=bench.outlook(names, own_shares=True),
        drop=drop,
        tried=len(trials.known),
        most=most,
    )


def _confirmed_groups(bench: Bench, names: Sequence[str], trials: TriedGroups) -> Grouping:
    """The fewest groups, searched anew without those that fail once they are merged."""
    while True:
        found = fewest_groups(len(names), trials)
        failing = [g for g in found.groups if len(g) > 1 and not _confirmed(bench, names, g)]
        if not failing:
            return found
        for group in failing:
            trials.note_failure(mask_of(group))


def _confirmed_rest(
    bench: Bench, names: Sequence[str], trials: TriedGroups, groups: Sequence[Group]
) -> LeftOut | None:
    while True:
        found = fewest_left_out(len(names), trials, groups)
        if found is None or _confirmed(bench, names, found.kept):
            return found
        trials.note_failure(mask_of(found.kept))


def _confirmed(bench: Bench, names: Sequence[str], group: Group) -> bool:
    return bench.confirmed([names[k] for k in group])


class _Chosen:
    """The forecasts of some of a bench's experts, numbered among themselves."""

    def __init__(self, bench: Bench, places: Sequence[int]) -> None:
        self._bench = bench
        self._places = places

    def risk(self, group: Group) -> float:
        return self._bench.risk(self._placed(group))

    def passes(self, group: Group) -> bool:
        return self._bench.passes(self._placed(group))

    def _placed(self, group: Group) -> Group:
        return tuple(self._places[k] for k in group)
