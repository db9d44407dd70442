"""What the stages ask of the budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.verdict.judge import PER_METHOD, plan_depth
from pytest_mergegate.verdict.judged_values import straddles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.common.values import Value
    from pytest_mergegate.gate.spec import GateSpec, Stage
    from pytest_mergegate.pool.pool import Pool


@dataclass(frozen=True, kw_only=True)
class BudgetDecisions:
    """A gate's budgets, all limits as numbers, as ``stages.context.Decisions``."""

    spec: GateSpec
    pool: Pool
    deepest: Stage

    @classmethod
    def of(cls, spec: GateSpec, pool: Pool, allowed: Stage | None) -> BudgetDecisions:
        """As deep as the budgets ask, and no deeper than ``allowed``."""
        return cls(spec=spec, pool=pool, deepest=plan_depth(spec, pool, allowed))

    @property
    def limits(self) -> Mapping[str, float]:
        """By budget."""
        return self.spec.effective_budget.limits

    @property
    def compares_merges(self) -> bool:
        """Whether a budget is about what a merge answers."""
        return bool(PER_METHOD & set(self.limits))

    def mds_is_open(self, mds: Value) -> bool:
        """Whether more probes might change on which side of its limit an MDS is."""
        limit = self.limits.get("max_mds")
        return limit is not None and straddles(mds, limit)

    def disagreement_is_open(self, expert: str, disagreement: Value, upper: float) -> bool:
        """Whether more inputs might change on which side of a limit the expert is."""
        limits = self.limits
        assert disagreement.interval is not None
        low, high = disagreement.interval
        if "max_disagreement" in limits and low <= limits["max_disagreement"] < high:
            return True
        if "max_loss" not in limits or self.pool.labelled(expert):
            return False
        allowed = limits["max_loss"] / 100 * (self.spec.experts[expert].score or 1.0)
        return low <= allowed < upper
