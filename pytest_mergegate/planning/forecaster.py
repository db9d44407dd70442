"""Where groups of a pool are put to the test, without a merge."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.merging.method import is_sum
from pytest_mergegate.planning.difficulty import Difficulty
from pytest_mergegate.planning.holding import Holding
from pytest_mergegate.planning.outlook import RANK, GroupOutlook, MergeOutlook
from pytest_mergegate.planning.risk import OwnInputRisk
from pytest_mergegate.planning.runs import Runs
from pytest_mergegate.planning.shares import (
    GroupShares,
    distinct,
    group_methods,
    group_scales,
    weighted,
)
from pytest_mergegate.planning.standing import Standing, refuse_increases
from pytest_mergegate.verdict.budgets import judges_merges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_mergegate.engine.running.workspace import Workspace
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.planning.shares import Shares
    from pytest_mergegate.planning.tried_groups import Group
    from pytest_mergegate.stages.conflict import ConflictResult
    from pytest_mergegate.stages.hidden import HiddenResult

_WORTH_IT = 0.9
"""Other shares are tried where they lower the predicted distortion to this part, or less."""
_HARDLY = 0.15
"""Of a limit."""


class Bench:
    """Forecasts of groups of the experts, each made once."""

    def __init__(
        self,
        workspace: Workspace,
        gate: Gate,
        hidden: HiddenResult,
        conflict: ConflictResult | None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        refuse_increases(gate.spec)
        self.gate = gate
        self.names = hidden.states.names
        self.shares = GroupShares(hidden)
        self._workspace = workspace
        self._hidden = hidden
        self._tell = tell
        self._holding = Holding(gate.spec)
        self._runs = Runs(workspace, self._holding)
        self._standing = Standing(gate.spec, hidden, conflict)
        self._merging = judges_merges(gate.spec.effective_budget.limits)
        self._risk = OwnInputRisk([hidden.grams[name] for name in self.names], [_uniform])
        self._outlooks: dict[tuple[tuple[str, ...], bool], GroupOutlook] = {}

    @property
    def runs(self) -> int:
        """Models that were put together and run."""
        return self._runs.done

    def risk(self, group: Group) -> float:
        """As ``Forecasts.risk``: what the shifts of the states say of an average."""
        return self._risk.of(group)

    def passes(self, group: Group) -> bool:
        """As ``Forecasts.passes``: by the first merge that does, under ``select: any``."""
        names = self._named(group)
        self._tell(f"trying {len(names)} experts")
        against, undecided = self._standing.against(names)
        if against or undecided:
            return False
        if not self._merging:
            return True
        methods = group_methods(self.gate, names, self._workspace)
        if not methods:
            return False
        every = self.gate.spec.merge.select == "all"
        return any(
            (all if every else any)(
                self._merge(method, shares, names, whole=False).status == "pass"
                for method in methods
            )
            for shares in self._promising(names)
        )

    @cached_property
    def difficulty(self) -> Difficulty:
        """MDS within any group."""
        return Difficulty(self.gate.spec, self._hidden)

    def outlook(self, names: Sequence[str], *, own_shares: bool = False) -> GroupOutlook:
        """All that can be said of a group under every method, with the gate's ``own_shares`` or
        with all."""
        known = tuple(names), own_shares
        if known not in self._outlooks:
            self._outlooks[known] = self._outlook(*known)
        return self._outlooks[known]

    def _outlook(self, names: tuple[str, ...], own_shares: bool) -> GroupOutlook:
        if len(names) == 1:
            return GroupOutlook(names=names, merges=())
        self._tell(f"forecasting {len(names)} experts")
        against, undecided = self._standing.against(names)
        methods = group_methods(self.gate, names, self._workspace) if self._merging else ()
        if self._merging and not methods:
            undecided = (*undecided, "no sum of task vectors stands for any of the methods")
        select = self.gate.spec.merge.select
        every = self._shares(names)
        found = [
            self._merge(method, shares, names, whole=True)
            for shares in (every[:1] if own_shares else distinct(every))
            for method in methods
        ]
        return GroupOutlook(
            names=names,
            merges=_sorted(found, select, self._own_kind),
            shared=against,
            undecided=undecided,
            select=select,
            asked=self._merging,
        )

    def confirmed(self, names: Sequence[str]) -> bool:
        """Whether the proposed merge of a group passes once it is made in memory.

        A sum of task vectors was that merge already. Where a merge fails, the next best one is
        made; what became of all of them stands in ``outlook``.
        """
        outlook = self.outlook(names)
        while outlook.status == "pass" and (doubtful := _doubtful(outlook)) is not None:
            made = self._made(doubtful, outlook.names)
            merges = [made if merge is doubtful else merge for merge in outlook.merges]
            outlook = replace(outlook, merges=_sorted(merges, outlook.select, self._own_kind))
            self._outlooks[outlook.names, False] = outlook
        return outlook.status == "pass"

    def _made(self, merge: MergeOutlook, names: Sequence[str]) -> MergeOutlook:
        method = replace(merge.method, route="in_place")
        self._tell(f"merging {len(names)} experts")
        with closing(self._runs.merged(method, names)) as running:
            found = tuple(self._holding.of(name, differences) for name, differences in running)
        return replace(merge, basis="merged", experts=found)

    @property
    def _own_kind(self) -> str:
        given = self.gate.spec.merge.weights
        return given if isinstance(given, str) else "given"

    def _shares(self, names: Sequence[str]) -> tuple[Shares, ...]:
        return self.shares.of(names, self.gate.spec.merge.weights)

    def _promising(self, names: Sequence[str]) -> Iterator[Shares]:
        """The gate's own shares, and others that the states say are clearly better."""
        own, *others = self._shares(names)
        yield own
        limit = _WORTH_IT * self._predicted(own, names)
        for shares in distinct([own, *sorted(others, key=lambda s: self._predicted(s, names))])[1:]:
            if self._predicted(shares, names) <= limit:
                yield shares

    def _predicted(self, shares: Shares, names: Sequence[str]) -> float:
        group = tuple(map(self.names.index, names))
        scales = np.array([shares.shares[name] for name in names])
        return float(self._risk.by_expert(group, scales).max())

    def _merge(
        self, method: Method, shares: Shares, names: Sequence[str], *, whole: bool
    ) -> MergeOutlook:
        """One merge; unless the ``whole`` is wanted, no more experts than it takes to fail."""
        method = weighted(method, shares) if shares.kind != "uniform" else method
        scales = group_scales(method, names, self._workspace)
        found = []
        group = tuple(map(self.names.index, names))
        risk = self._risk.by_expert(group, np.array([scales[name] for name in names]))
        order = [name for _, name in sorted(zip(-risk, names, strict=True))]
        with closing(self._runs.of(scales, order, hasty=not whole)) as running:
            for name, differences in running:
                found.append(self._holding.of(name, differences))
                if found[-1].status == "fail" and not whole:
                    break
        return MergeOutlook(
            method=method,
            shares=shares,
            scales=scales,
            basis="exact" if is_sum(method) else "surrogate",
            experts=tuple(sorted(found, key=lambda e: names.index(e.name))),
            whole=len(found) == len(names),
        )

    def _named(self, group: Group) -> tuple[str, ...]:
        return tuple(self.names[index] for index in group)


def _uniform(group: Group) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.full(len(group), 1 / len(group))


def _doubtful(outlook: GroupOutlook) -> MergeOutlook | None:
    """The first of the merges on which the group's status rests that is a surrogate's."""
    best = outlook.merges[:1]
    if best and outlook.select == "all":
        best = tuple(m for m in outlook.merges if m.shares.kind == best[0].shares.kind)
    return next((merge for merge in best if merge.basis == "surrogate"), None)


def _sorted(merges: Sequence[MergeOutlook], select: str, own: str) -> tuple[MergeOutlook, ...]:
    """The best first."""
    whole = _whole(merges, select)
    return tuple(sorted(merges, key=lambda m: whole[m.shares.kind] + _order(m, own)))


def _order(merge: MergeOutlook, own: str) -> tuple[float, ...]:
    """A merge that was run itself before one that was not, then the one with most to spare;
    the gate's ``own`` shares before others that are hardly better."""
    use = merge.use - (_HARDLY if merge.shares.kind == own else 0.0)
    return RANK[merge.status], float(merge.basis == "surrogate"), use


def _whole(merges: Sequence[MergeOutlook], select: str) -> dict[str, tuple[float, ...]]:
    """What all methods come to under some shares, where every one of them has to do."""
    kinds: dict[str, tuple[float, ...]] = {}
    for merge in merges:
        own = (RANK[merge.status], merge.use) if select == "all" else ()
        kinds[merge.shares.kind] = max(kinds.get(merge.shares.kind, own), own)
    return kinds
