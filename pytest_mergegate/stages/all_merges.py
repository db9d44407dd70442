"""Stage 4: every merge that the gate asks for, here or in the executor's workers."""

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial

from pytest_mergegate.evaluation.scoring import Scored
from pytest_mergegate.merging.method import Method, is_sum
from pytest_mergegate.stages import evaluate
from pytest_mergegate.stages.base_answers import with_base
from pytest_mergegate.stages.context import Context, Results
from pytest_mergegate.stages.elsewhere import Elsewhere
from pytest_mergegate.stages.evaluate import reference_scores
from pytest_mergegate.stages.forecasts import with_sum
from pytest_mergegate.stages.merge import MergeResult, make_merge, merge_key


def run(context: Context, earlier: Results) -> Iterator[Results]:
    """Make and compare one merge after the other. Raises GateError."""
    context.tell("experts' own answers", 0.0)
    # along the experts' answers first: that reads most of what is scored
    yield (earlier := with_base(context, earlier))
    if context.reaches("eval"):  # a metric that fails does so before anything is merged
        yield (earlier := replace(earlier, scores=reference_scores(context)))
    order = _likeliest_first(context, earlier)
    with closing(Elsewhere(context, earlier, order)) as elsewhere:
        for done, method in enumerate(order):
            context.tell(f"merge {method.label}", done / len(order))
            scored: dict[str, Mapping[str, Scored]] = {}
            make = partial(_make, context, earlier, method, scored, elsewhere)
            key = merge_key(context, method)
            # a function of the team's own may change from run to run
            is_kept = method.root is None
            found = context.workspace.kept(MergeResult, key, make) if is_kept else make()
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
    context: Context,
    earlier: Results,
    method: Method,
    scored: dict[str, Mapping[str, Scored]],
    elsewhere: Elsewhere,
) -> MergeResult:
    made = elsewhere.made(method) if elsewhere.is_there else None
    made = made or make_merge(context, earlier, method)
    if made.scored is not None:
        scored[method.label] = made.scored
    return made.merge
