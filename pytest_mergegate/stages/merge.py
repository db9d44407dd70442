"""Stage 4: the real merge, against each expert on that expert's own unlabelled inputs."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.cache import Key
from pytest_mergegate.engine.running.probes import read_probes
from pytest_mergegate.engine.running.workspace import own_processor
from pytest_mergegate.evaluation.scoring import Scored
from pytest_mergegate.merging.method import Method, is_sum
from pytest_mergegate.stages.context import Context, Results
from pytest_mergegate.stages.evaluate import score_merge
from pytest_mergegate.stages.fitted import FittedChange
from pytest_mergegate.stages.forecasts import compare_sum
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


@result
class Made:
    """A merge that was made, compared and, where it is to be, scored while it was in place."""

    merge: MergeResult
    scored: Mapping[str, Scored] | None
    """By expert."""


def make_merge(context: Context, earlier: Results, method: Method) -> Made:
    """Make the merge; it is scored too, if it is to be, while it is in place: to make it again
    would take longer. Raises GateError."""
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
        scored = None
        if context.reaches("eval"):
            engine = context.workspace.engine
            scored = score_merge(context, engine, found.experts, earlier.scores)
    return Made(merge=found, scored=scored)


def _linearity_gap(context: Context, method: Method, hidden: HiddenResult) -> Value:
    if not method.traits.has_linearity_gap:
        return Value.missing("not_linear")
    states = hidden.states
    weights = np.array([hidden.scales[method.label][name] for name in states.names])
    mixed = metrics.mix_states(states.experts, states.base, weights)
    merged = read_probes(context.workspace.engine, states)
    return Value(number=metrics.linearity_gap(merged, mixed))


def merge_key(context: Context, method: Method) -> Key:
    """Under what the merge is kept: another processor's may differ in the last bits, and so in its
    digest."""
    return context.key("merge", method=method.plain, processor=own_processor())
