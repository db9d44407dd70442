"""What the report, and ``mergegate plan --json``, say of other ways to merge a pool."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pytest_mergegate.common.records import Number, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_mergegate.metrics import CurvePoint
    from pytest_mergegate.planning.forecasts import GroupForecast, MergeForecast


class CurvePointRecord(Record):
    """The least worst distortion with so many merged models."""

    models: int
    distortion: Number
    groups: tuple[tuple[str, ...], ...]
    at_least: Number | None = None
    """What no grouping into so many can beat: the distortion itself, up to 12 experts."""


class PlannedMergeRecord(Record):
    """A merge of one group that was forecast, not made."""

    method: str
    shares: str
    """How its total weight is divided: ``uniform``, ``optimal``, ``minimax`` or ``given``, or as
    the gate's ``own``."""
    weights: dict[str, Number]
    """As the method is handed them; with the basis ``probes`` or ``states`` the scales of the task
    vectors."""
    basis: Literal["exact", "merged", "surrogate", "probes", "states"]
    """``exact``: the sum of task vectors that was run is the merge; ``merged``: the merge was made
    in memory, and run; ``surrogate``: the sum nearest to it was run; ``probes``: that, on the
    probes alone; ``states``: stored states were mixed."""
    status: Literal["pass", "inconclusive", "fail"]
    distortion: Number | None = None
    """The worst expert's, predicted from the states of the group's own probes."""
    expert: str | None = None
    """Who is worst off."""
    disagreement: Number | None = None
    """Of that expert."""
    loss: Number | None = None
    """Of that expert, in percent and positive when worse: each answer that differs counts as lost,
    or the certified loss where there are no targets; null where no budget asks."""
    why: str = ""
    """What is over its limit, or cannot be told."""


class PlannedGroupRecord(Record):
    """Experts that are to be merged with each other."""

    experts: tuple[str, ...]
    status: Literal["pass", "inconclusive", "fail"]
    """Of the proposed merge against the gate's budget; one expert by itself is not merged."""
    against: tuple[str, ...] = ()
    """What speaks against the group whatever the method."""
    merges: tuple[PlannedMergeRecord, ...] = ()
    """The proposed one first, then what the other methods and shares would do."""


class StandInRecord(Record):
    """A candidate in the place of the expert that merges worst."""

    name: str
    mds: Number | None
    """Its own in that pool."""
    pool: PlannedGroupRecord


class ReplacementRecord(Record):
    """Candidates for one expert's place."""

    order: Literal["forecast", "mds"]
    """By what the expert to be replaced was chosen, and the candidates are ranked."""
    replaced: str
    candidates: tuple[StandInRecord, ...]
    """The best first."""


class PlanRecord(Record):
    """What would pass instead."""

    curve: tuple[CurvePointRecord, ...] = ()
    drop: tuple[str, ...] = ()
    """Experts without which the others are expected to pass as one merge."""
    drop_at_least: int | None = None
    """Leaving out fewer than so many does not do; null where that was not looked into."""
    groups: tuple[PlannedGroupRecord, ...] = ()
    """The fewest groups that are expected to pass, each as a merge of its own."""
    at_least: int | None = None
    """Fewer groups than these do not do, as far as a group fails that holds a failing one."""
    replacements: tuple[ReplacementRecord, ...] = ()


def curve_records(
    curve: Iterable[CurvePoint], names: Sequence[str]
) -> tuple[CurvePointRecord, ...]:
    """The curve, its groups by name."""
    return tuple(
        CurvePointRecord.of(
            point, groups=tuple(tuple(names[k] for k in group) for group in point.groups)
        )
        for point in curve
    )


def group_record(group: GroupForecast) -> PlannedGroupRecord:
    """A group and every merge of it that was forecast."""
    return PlannedGroupRecord(
        experts=group.names,
        status=group.status,
        against=(*group.shared, *group.undecided),
        merges=tuple(map(_merge, group.merges)),
    )


def _merge(merge: MergeForecast) -> PlannedMergeRecord:
    worst, distortion = merge.worst, merge.shares.distortion
    return PlannedMergeRecord.of(
        worst,  # what it may differ in and lose, and why
        method=merge.method.label,
        shares=merge.shares.kind,
        weights=dict(merge.method.weights),
        basis=merge.basis,
        status=merge.status,
        distortion=distortion if math.isfinite(distortion) else None,
        expert=worst and worst.name,
    )
