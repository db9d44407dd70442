"""Stage 4: the real merge, against each expert on that expert's own unlabelled inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.hidden_states import read_probes
from pytest_mergegate.engine.running.workspace import own_processor
from pytest_mergegate.merging.method import Method, is_sum
from pytest_mergegate.stages.evaluate import reference_scores, score_merge
from pytest_mergegate.stages.forecasts import Surrogate, compare_sum
from pytest_mergegate.stages.merge_versus_experts import MergedExpert, compare_loaded, with_base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.gate.options import Stage
    from pytest_mergegate.stages.context import Context
    from pytest_mergegate.stages.hidden import HiddenResult
    from pytest_mergegate.stages.results import Results


@result
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


@dataclass(frozen=True)
class Merge:
    """The stage."""

    name: ClassVar[Stage] = "merge"

    def run(self, context: Context, earlier: Results) -> Iterator[Results]:
        """Make and compare one merge after the other. Raises GateError."""
        context.tell("experts' own answers", 0.0)
        if context.reaches("eval"):  # a metric that fails does so before anything is merged
            yield (earlier := replace(earlier, scores=reference_scores(context)))
        for done, method in enumerate(earlier.methods):
            context.tell(f"merge {method.label}", done / len(earlier.methods))
            assert earlier.hidden is not None
            found = _find(context, method, earlier.hidden)
            yield (earlier := replace(earlier, merges=(*earlier.merges, found)))
        sums = tuple(
            Surrogate(method=merge.method.label, exact=True, experts=merge.experts)
            for merge in earlier.merges
            if is_sum(merge.method)
        )
        yield with_base(context, replace(earlier, surrogates=(*earlier.surrogates, *sums)))


def _find(context: Context, method: Method, hidden: HiddenResult) -> MergeResult:
    # another processor's merge may differ in the last bits, and so in its digest
    key = context.key("merge", method=method.plain, processor=own_processor())
    return context.cache.kept(MergeResult, key, lambda: _make(context, method, hidden))


def _make(context: Context, method: Method, hidden: HiddenResult) -> MergeResult:
    def compare() -> tuple[MergedExpert, ...]:
        return compare_loaded(context)

    scales = hidden.scales[method.label]
    with context.merged(method) as merged:
        # that of a sum may have been run as a forecast
        experts = compare_sum(context, scales, compare) if is_sum(method) else compare()
        found = MergeResult(
            method=method,
            fidelity=merged.fidelity,
            digest=merged.digest,
            linearity_gap=_linearity_gap(context, method, hidden),
            experts=experts,
        )
        if context.reaches("eval"):  # while it is in place: to make it again would take longer
            context.scores[method.label] = score_merge(context)
    return found


def _linearity_gap(context: Context, method: Method, hidden: HiddenResult) -> Value:
    if not method.traits.has_linearity_gap:
        return Value.missing("not_linear")
    states = hidden.states
    weights = np.array([hidden.scales[method.label][name] for name in states.names])
    mixed = metrics.mix_states(states.experts, states.base, weights)
    merged = read_probes(context.workspace.engine, states)
    return Value(number=metrics.linearity_gap(merged, mixed))
