"""Stage 4: the real merge, against each expert on that expert's own unlabelled inputs."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.probes import read_probes
from pytest_mergegate.engine.running.workspace import own_processor
from pytest_mergegate.evaluation.scoring import Scored
from pytest_mergegate.merging.method import Method, is_sum
from pytest_mergegate.stages import evaluate
from pytest_mergegate.stages.base_answers import with_base
from pytest_mergegate.stages.context import Context, Results
from pytest_mergegate.stages.evaluate import reference_scores, score_merge
from pytest_mergegate.stages.fitted import FittedChange
from pytest_mergegate.stages.forecasts import compare_sum, with_sum
from pytest_mergegate.stages.hidden import HiddenResult
from pytest_mergegate.stages.looks import compare_loaded
from pytest_mergegate.stages.merge_versus_experts import ComparedMerge


@result
class MergeResult(ComparedMerge):
    """One method's merge against every expert."""

    method: Method
    fidelity: float | None
    """The largest relative error of the identities that the method has to satisfy (THEORY 8); of a
    finished merge of one expert how far its change is from the expert's. None for a merge of
    mergekit's own that cannot be made again in place, and for a finished one of several."""
    digest: str
    """Over the merged parameters, in the precision of the gate."""
    fitted: FittedChange | None = None
    """Of a finished merge: what of its change is its experts'; None where that cannot be told."""
    linearity_gap: Value
    """η: rms distance between the merged states and the mix of the experts' states."""


def run(context: Context, earlier: Results) -> Iterator[Results]:
    """Make and compare one merge after the other. Raises GateError."""
    context.tell("experts' own answers", 0.0)
    # along the experts' answers first: that reads most of what is scored
    yield (earlier := with_base(context, earlier))
    if context.reaches("eval"):  # a metric that fails does so before anything is merged
        yield (earlier := replace(earlier, scores=reference_scores(context)))
    listed = earlier.methods
    for done, method in enumerate(_likeliest_first(context, earlier)):
        context.tell(f"merge {method.label}", done / len(listed))
        scored: dict[str, dict[str, Scored]] = {}
        # another processor's merge may differ in the last bits, and so in its digest
        key = context.key("merge", method=method.plain, processor=own_processor())
        make = partial(_make, context, earlier, method, scored)
        found = context.kept_of(method, MergeResult, key, make)
        if is_sum(method):
            earlier = with_sum(earlier, method, found.experts)
        merges = (*earlier.merges, found)
        yield (earlier := replace(earlier, merges=merges, scored={**earlier.scored, **scored}))
        if context.passes is not None:
            if context.reaches("eval"):
                *_, earlier = evaluate.run(context, earlier)
            if context.passes(earlier):
                break
    yield replace(earlier, merges=_as_listed(earlier))


def _likeliest_first(context: Context, earlier: Results) -> tuple[Method, ...]:
    """The gate's methods in the order of what their forecasts say of the worst expert, where the
    first that passes ends the search; as they are listed where nothing was forecast."""
    if context.passes is None or earlier.hidden is None:
        return earlier.methods
    worst: dict[str, float] = {}
    for forecast in earlier.hidden.forecasts:
        divergence = math.inf if forecast.kl.number is None else forecast.kl.number
        worst[forecast.method] = max(worst.get(forecast.method, 0.0), divergence)
    return tuple(sorted(earlier.methods, key=lambda method: worst.get(method.label, math.inf)))


def _as_listed(results: Results) -> tuple[MergeResult, ...]:
    order = [method.label for method in results.methods]
    return tuple(sorted(results.merges, key=lambda merge: order.index(merge.method.label)))


def _make(
    context: Context, earlier: Results, method: Method, scored: dict[str, dict[str, Scored]]
) -> MergeResult:
    """Make the merge; it is ``scored`` too, if it is to be, while it is in place: to make it again
    would take longer."""
    compare = partial(compare_loaded, context, earlier.scores)
    with context.merged(method) as merged:
        # that of a sum may have been run as a forecast
        experts = compare_sum(context, earlier, method, compare) if is_sum(method) else compare()
        assert earlier.hidden is not None
        found = MergeResult(
            method=method,
            fidelity=merged.fidelity,
            digest=merged.digest,
            linearity_gap=_linearity_gap(context, method, earlier.hidden),
            experts=experts,
        )
        if context.reaches("eval"):
            scored[method.label] = score_merge(
                context, context.workspace.engine, found.experts, earlier.scores
            )
    return found


def _linearity_gap(context: Context, method: Method, hidden: HiddenResult) -> Value:
    if not method.traits.has_linearity_gap:
        return Value.missing("not_linear")
    states = hidden.states
    weights = np.array([hidden.scales[method.label][name] for name in states.names])
    mixed = metrics.mix_states(states.experts, states.base, weights)
    merged = read_probes(context.workspace.engine, states)
    return Value(number=metrics.linearity_gap(merged, mixed))
