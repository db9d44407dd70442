"""What the stages ask of the budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.verdict.judge import PER_METHOD, plan_depth
from pytest_mergegate.verdict.judged_values import straddles

if TYPE_CHECKING:
    from pytest_mergegate.common.values import Value
    from pytest_mergegate.gate.spec import GateSpec, Stage
    from pytest_mergegate.pool.pool import Pool


class Decisions:
    """The budgets of one gate, all limits as numbers, as ``stages.context.Decisions``."""

    def __init__(self, spec: GateSpec, pool: Pool, allowed: Stage | None = None) -> None:
        """``allowed`` is the deepest stage that may run; None for as deep as the budgets ask."""
        self._spec = spec
        self._pool = pool
        self.deepest = plan_depth(spec, pool, allowed)
        self.limits = spec.effective_budget.limits

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
        if "max_loss" not in limits or self._pool.labelled(expert):
            return False
        allowed = limits["max_loss"] / 100 * (self._spec.experts[expert].score or 1.0)
        return low <= allowed < upper
