"""What is expected of a merge: by expert, by method and shares, and for a group of experts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_mergegate.common.statuses import STATUSES, worst

if TYPE_CHECKING:
    from pytest_mergegate.common.statuses import Status
    from pytest_mergegate.common.values import Value
    from pytest_mergegate.merging.method import Method
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
    inputs: int
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
    shares: Shares
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
