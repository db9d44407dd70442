"""Stage 4: the real merge, against each expert on that expert's own unlabelled inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.hidden_states import read_probes

if TYPE_CHECKING:
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.merging.merge import Merged
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.stages.hidden import HiddenResult
    from pytest_mergegate.stages.merge_versus_experts import MergedExpert


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """One method's merge against every expert."""

    method: Method
    fidelity: float | None
    """The largest relative error of the identities that the method has to satisfy (THEORY 8); None
    for a merge of mergekit's own that cannot be made again in place."""
    digest: str
    """Over the merged parameters, in the precision of the gate."""
    linearity_gap: Value
    """η: rms distance between the merged states and the mix of the experts' states."""
    experts: tuple[MergedExpert, ...]

    def expert(self, name: str) -> MergedExpert:
        """The comparison with one expert."""
        return next(expert for expert in self.experts if expert.name == name)


def run_merge(
    engine: Engine,
    method: Method,
    merged: Merged,
    hidden: HiddenResult,
    experts: tuple[MergedExpert, ...],
) -> MergeResult:
    """What the loaded merge comes to; ``experts`` is how it compares with them."""
    return MergeResult(
        method=method,
        fidelity=merged.fidelity,
        digest=merged.digest,
        linearity_gap=_linearity_gap(engine, method, hidden),
        experts=experts,
    )


def _linearity_gap(engine: Engine, method: Method, hidden: HiddenResult) -> Value:
    if not method.traits.has_linearity_gap:
        return Value.missing("not_linear")
    states = hidden.states
    weights = np.array([hidden.scales[method.label][name] for name in states.names])
    mixed = metrics.mix_states(states.experts, states.base, weights)
    merged = read_probes(engine, states)
    return Value(number=metrics.linearity_gap(merged, mixed))
