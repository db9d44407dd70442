"""What the stages have to know of a gate's budgets: how deep to go, and when to go on looking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.spec import STAGES, deepest
from pytest_mergegate.verdict.budgets import judges_merges, set_limits
from pytest_mergegate.verdict.evidence import is_open

if TYPE_CHECKING:
    from pytest_mergegate.gate.spec import GateSpec, Stage
    from pytest_mergegate.pool.pool import Pool


class Decisions:
    """The budgets of one gate, for those who know none by name."""

    def __init__(self, spec: GateSpec, pool: Pool) -> None:
        self._spec = spec
        self._pool = pool
        self._limits = spec.effective_budget.limits

    def depth(self, allowed: Stage | None) -> Stage:
        """The stage at which every budget is decided, or ``allowed`` where that is less deep."""
        wanted = deepest(
            *(
                kind.needs(self._pool, expert)
                for kind, _ in set_limits(self._limits)
                for expert in self._pool.names
            )
        )
        return wanted if allowed is None else min(wanted, allowed, key=STAGES.index)

    @property
    def compares_merges(self) -> bool:
        """Whether merges, or what stands for them, have to be compared with the experts."""
        return judges_merges(self._limits)

    def mds_is_open(self, mds: Value) -> bool:
        """Whether more probes might change on which side of its limit an MDS is."""
        return any(
            is_open(mds, limit)
            for kind, limit in set_limits(self._limits)
            if kind.quantity == "mds" and not kind.from_baseline
        )

    def disagreement_is_open(self, expert: str, disagreement: Value, upper: float) -> bool:
        """Whether more inputs might change on which side of a limit an expert is.

        A loss that is measured does not hang on it; one that is certified rests on the one-sided
        bound ``upper``.
        """
        assert disagreement.interval is not None
        certified = Value(number=disagreement.number, interval=(disagreement.interval[0], upper))
        score = self._spec.experts[expert].score or 1.0
        return any(
            is_open(certified if kind.measured else disagreement, kind.differing(limit, score))
            for kind, limit in set_limits(self._limits)
            if kind.differing and not (kind.measured and self._pool.labelled(expert))
        )
