"""What is expected of a merge: by expert, by method and shares, and for a group of experts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.common.statuses import Status
    from pytest_mergegate.common.values import Value
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.planning.shares import Shares

Basis = Literal["exact", "merged", "surrogate"]
RANK: dict[Status, int] = {"pass": 0, "inconclusive": 1, "fail": 2}


@dataclass(frozen=True, kw_only=True)
class ExpertOutlook:
    """One expert under one merge that was not made."""

    name: str
    inputs: int
    disagreement: Value
    loss: Value
    """Expected, in percent and positive when worse; the reason where nobody asked."""
    use: float
    """How much of its tightest limit it uses up: over 1 fails."""
    status: Status
    why: str = ""
    """What is over its limit, or cannot be told."""


@dataclass(frozen=True, kw_only=True)
class MergeOutlook:
    """A group under one method and shares."""

    method: Method
    shares: Shares
    scales: Mapping[str, float]
    basis: Basis
    """``exact``: the sum that was run is the merge itself; ``merged``: it was made in memory;
    ``surrogate``: the sum nearest to it was run."""
    experts: tuple[ExpertOutlook, ...]
    whole: bool = True
    """Whether all experts were looked at: after a failure the rest may be left out."""

    @property
    def status(self) -> Status:
        """The worst of its experts."""
        statuses = [expert.status for expert in self.experts]
        found: Status = max(statuses, key=RANK.__getitem__, default="inconclusive")
        return found if self.whole or found == "fail" else "inconclusive"

    @property
    def worst(self) -> ExpertOutlook | None:
        """The expert that uses up most of its limit."""
        return max(self.experts, key=lambda e: (RANK[e.status], e.use), default=None)

    @property
    def use(self) -> float:
        """How much of the limit the worst expert uses up."""
        return self.worst.use if self.worst is not None else math.inf


@dataclass(frozen=True, kw_only=True)
class GroupOutlook:
    """A group of experts and the merge that is proposed for it."""

    names: tuple[str, ...]
    merges: tuple[MergeOutlook, ...]
    """All that were forecast, the proposed one first."""
    shared: tuple[str, ...] = ()
    """What the budgets on weights and states say against the group, whatever the method."""
    undecided: tuple[str, ...] = ()
    """Those budgets that cannot be told."""
    select: Literal["any", "all"] = "any"
    asked: bool = True
    """Whether any budget is about merges; without one the group's weights and states decide."""

    @property
    def status(self) -> Status:
        """Whether the group is expected to keep the budget; a single expert is not merged."""
        if len(self.names) == 1:
            return "pass"
        if self.shared:
            return "fail"
        found: Status = self._merged if self.asked else "pass"
        return "inconclusive" if self.undecided and found == "pass" else found

    @property
    def _merged(self) -> Status:
        if not self.merges:
            return "inconclusive"
        best = self.merges[0]
        if self.select == "any":
            return best.status
        alike = [m.status for m in self.merges if m.shares.kind == best.shares.kind]
        return max(alike, key=RANK.__getitem__)

    @property
    def best(self) -> MergeOutlook | None:
        """The merge that is proposed; None for a single expert."""
        return self.merges[0] if self.merges else None
