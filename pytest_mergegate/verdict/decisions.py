"""What the stages have to know of a gate's budgets: how deep to go, and when to go on looking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.options import STAGES
from pytest_mergegate.gate.spec import deepest
from pytest_mergegate.verdict.budgets import judges_merges, set_limits
from pytest_mergegate.verdict.evidence import is_open

if TYPE_CHECKING:
    from pytest_mergegate.gate.options import Stage
    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.pool.pool import Pool


class Decisions:
    """The budgets of one gate, for the stages, which know none of them by name."""

    def __init__(self, spec: GateSpec, pool: Pool, allowed: Stage | None = None) -> None:
        """``allowed`` is the deepest stage that may run; None for as deep as the budgets ask."""
        self._spec = spec
        self._pool = pool
        self._allowed = allowed
        self.limits = spec.effective_budget.limits
        """All that it hangs on whether something is open."""

    @property
    def deepest(self) -> Stage:
        """The stage at which every budget is decided, or the one allowed where that is less
        deep."""
        kinds = [kind for kind, _ in set_limits(self.limits)]
        wanted = deepest(*(k.needs(self._pool, name) for k in kinds for name in self._pool.names))
        return min(wanted, self._allowed or wanted, key=STAGES.index)

    @property
    def compares_merges(self) -> bool:
        """Whether a budget is about what a merge answers."""
        return judges_merges(self.limits)

    def mds_is_open(self, mds: Value) -> bool:
        """Whether more probes might change on which side of its limit an MDS is."""
        return any(
            is_open(mds, limit)
            for kind, limit in set_limits(self.limits)
            if kind.quantity == "mds" and not kind.from_baseline
        )

    def disagreement_is_open(self, expert: str, disagreement: Value, upper: float) -> bool:
        """Whether more inputs might change on which side of a limit an expert is whose interval of
        the disagreement, and bound on it, these are.

        A loss that is measured does not hang on them; one that is certified rests on the bound.
        """
        assert disagreement.interval is not None
        certified = Value(number=disagreement.number, interval=(disagreement.interval[0], upper))
        score = self._spec.experts[expert].score or 1.0
        return any(
            is_open(certified if kind.measured else disagreement, kind.differing(limit, score))
            for kind, limit in set_limits(self.limits)
            if kind.differing and not (kind.measured and self._pool.labelled(expert))
        )
