"""What is expected of a merge, by expert, by method and shares, and for a group of experts; and how
the report, and ``mergegate plan --json``, have it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_mergegate.common.records import Number, Record
from pytest_mergegate.common.statuses import STATUSES, Status, worst
from pytest_mergegate.common.values import Value
from pytest_mergegate.merging.method import Method
from pytest_mergegate.metrics import CurvePoint

if TYPE_CHECKING:  # which imports this module
    from pytest_mergegate.planning.weights import Shares

Basis = Literal["exact", "merged", "surrogate"]


class Forecasts(Protocol):
    """What a search asks of a pool; its experts are named, or else numbered."""

    def risk(self, group: Any) -> float:
        """How likely a group is to fail, in any unit; costs next to nothing."""

    def passes(self, group: Any) -> bool:
        """Whether a group of two or more is forecast to keep the budget; costs model runs."""


@dataclass(frozen=True, kw_only=True)
class ExpertForecast:
    """One expert under one merge that was not made."""

    name: str
    disagreement: Value
    loss: Value
    """Expected, in percent and positive when worse; the reason where nobody asked."""
    use: float
    """How much of its tightest limit it uses up: over 1 fails."""
    status: Status
    why: str = ""
    """What is over its limit, or cannot be told."""

    @property
    def rank(self) -> tuple[int, float]:
        """The worse off, the more."""
        return STATUSES.index(self.status), self.use


@dataclass(frozen=True, kw_only=True)
class MergeForecast:
    """A group under one method and shares."""

    method: Method
    shares: "Shares"
    basis: Basis
    """``exact``: the sum that was run is the merge itself; ``merged``: it was made in memory;
    ``surrogate``: the sum nearest to it was run."""
    experts: tuple[ExpertForecast, ...]
    whole: bool = True
    """Whether all experts were looked at: after a failure the rest may be left out."""

    @property
    def status(self) -> Status:
        """The worst of its experts."""
        known = self.whole and self.experts
        return worst((e.status for e in self.experts), "pass" if known else "inconclusive")

    @property
    def worst(self) -> ExpertForecast | None:
        """The expert that uses up most of its limit."""
        return max(self.experts, key=lambda expert: expert.rank, default=None)

    @property
    def rank(self) -> tuple[int, float]:
        """The less likely to pass, the more."""
        return STATUSES.index(self.status), self.worst.use if self.worst else math.inf


@dataclass(frozen=True, kw_only=True)
class GroupForecast:
    """A group of experts and the merge that is proposed for it."""

    names: tuple[str, ...]
    merges: tuple[MergeForecast, ...]
    """All that were forecast, the proposed one first."""
    shared: tuple[str, ...] = ()
    """What the budgets on weights and states say against the group, whatever the method."""
    undecided: tuple[str, ...] = ()
    """Those budgets that cannot be told."""
    select: Literal["any", "all"] = "any"
    asked: bool = True
    """Whether any budget is about merges; without one the group's weights and states decide."""

    @property
    def deciding(self) -> tuple[MergeForecast, ...]:
        """The merges on which the status rests: the proposed one, or all with its shares."""
        if self.select == "any":
            return self.merges[:1]
        return tuple(m for m in self.merges if m.shares.kind == self.merges[0].shares.kind)

    @property
    def status(self) -> Status:
        """Whether the group is expected to keep the budget; a single expert is not merged."""
        if len(self.names) == 1:
            return "pass"
        if self.shared:
            return "fail"
        unknown = self.undecided or (self.asked and not self.merges)
        found = (merge.status for merge in self.deciding) if self.asked else ()
        return worst(found, "inconclusive" if unknown else "pass")

    @property
    def best(self) -> MergeForecast | None:
        """The merge that is proposed; None for a single expert."""
        return self.merges[0] if self.merges else None

    @property
    def rank(self) -> tuple[int, float]:
        """The less likely to pass, the more."""
        return STATUSES.index(self.status), self.best.rank[1] if self.best else math.inf


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
