"""What the stages have found of a gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.common.findings import Finding
    from pytest_mergegate.gate.sections import Positions
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.stages.conflict import ConflictResult
    from pytest_mergegate.stages.evaluate import EvaluateResult, ReferenceScores
    from pytest_mergegate.stages.forecasts import Surrogate
    from pytest_mergegate.stages.hidden import HiddenResult
    from pytest_mergegate.stages.merge import MergeResult
    from pytest_mergegate.stages.merge_versus_experts import BaseAnswers


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the stages have found so far; None for a stage that did not run."""

    pool: Pool
    findings: tuple[Finding, ...] = ()
    """What preflight has to say of a pool that is sound."""
    methods: tuple[Method, ...] = ()
    """The gate's methods of merging; their weights are known once the states are."""
    device: str | None = None
    """Where models run; None where none did."""
    positions: Positions | None = None
    """Where states were read."""
    probes: int | None = None
    """How many of each task were drawn in the end."""
    conflict: ConflictResult | None = None
    hidden: HiddenResult | None = None
    surrogates: tuple[Surrogate, ...] = ()
    merges: tuple[MergeResult, ...] = ()
    evaluations: tuple[EvaluateResult, ...] = ()
    scores: Mapping[str, ReferenceScores] | None = None
    """Scores of the experts by themselves; None where the last stage did not run."""
    base: Mapping[str, BaseAnswers] | None = None
    """The base by itself on every expert's inputs; None where no budget is about merges."""

    def merge(self, method: str | None) -> MergeResult | None:
        """The merge by ``method``; None where it was not made."""
        return next((m for m in self.merges if m.method.label == method), None)

    def probes_of(self, expert: str) -> int:
        """On how many of its inputs states were compared."""
        return len(self.hidden.states.own(expert)) if self.hidden is not None else 0

    def surrogate(self, method: str | None) -> Surrogate | None:
        """The forecast of ``method`` by a factored sum; None where it was not run."""
        return next((s for s in self.surrogates if s.method == method), None)
