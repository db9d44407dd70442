"""What merges are expected to do before one is made: states mixed, and sums run (THEORY 6)."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.probes import HiddenStates
from pytest_mergegate.engine.running.trials import Trials, trials_of
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.merging.method import Method, has_surrogate, is_sum, linear_scales
from pytest_mergegate.stages.base_answers import with_base
from pytest_mergegate.stages.context import Context, Results
from pytest_mergegate.stages.looks import compare_loaded
from pytest_mergegate.stages.merge_versus_experts import ComparedMerge, MergedExpert


@result
class Forecast:
    """A merge's expected effect on one expert, before any merge."""

    method: str
    expert: str
    kind: Literal["states"]
    reading: str
    compared_by: str
    """How answers are compared: mixed states tell which tokens differ, and give no text."""
    inputs: int
    """How many own probes were compared."""
    disagreement: Value
    disagreement_upper: Value
    kl: Value


@result
class Surrogate(ComparedMerge):
    """θ_0 + Σ λ_j τ_j against every expert: what a method's merge is expected to do."""

    method: str
    exact: bool
    """Whether it is the merge itself."""


def method_scales(method: Method, names: Sequence[str], workspace: Workspace) -> dict[str, float]:
    """λ_j by expert of those that are merged: known, or measured on a sample of really merged
    tensors."""

    def measure() -> dict[str, float]:
        from pytest_mergegate.merging.merge import effective_scales

        return effective_scales(method, workspace.engine)

    models = {name: workspace.models[name] for name in names}
    key = workspace.key("scales", method=method.plain, experts=models)
    known = linear_scales(method)
    if known is None and method.root is None:
        known = workspace.cache.kept(dict[str, float], key, measure)
    found = known or measure()
    return {name: found[name] for name in names}


def forecast_all(
    scales: Mapping[str, Mapping[str, float]], states: HiddenStates, context: Context
) -> tuple[Forecast, ...]:
    """What mixed states say of every method and expert."""
    trials, spec = trials_of(context.workspace, states), context.gate.spec
    return tuple(
        _forecast(trials, label, expert, by_expert, spec.level, spec.experts[expert].comparison)
        for label, by_expert in scales.items()
        for expert in states.names
    )


def _forecast(
    trials: Trials | None,
    method: str,
    expert: str,
    scales: Mapping[str, float],
    level: float,
    comparison: str,
) -> Forecast:
    reading, agreement = ("none", None) if trials is None else trials.forecast(expert, scales)
    if agreement is None:
        missing = Value.missing(
            "positions_not_answer" if trials is None else "choices_share_first_token"
        )
        inputs, reading, rate, upper, kl = 0, "none", missing, missing, missing
    else:
        inputs, kl = agreement.n, Value(number=agreement.kl)
        rate = upper = Value.missing("states_give_no_text")
        if comparison == EXACT:
            rate, differing = Value(number=agreement.rate), round(math.fsum(agreement.distances))
            bound = metrics.disagreement_bound(differing, inputs, confidence=level)
            upper = Value(number=bound)
    return Forecast(
        method=method,
        expert=expert,
        kind="states",
        reading=reading,
        compared_by=comparison,
        inputs=inputs,
        disagreement=rate,
        disagreement_upper=upper,
        kl=kl,
    )


def run_surrogates(context: Context, results: Results) -> Iterator[Results]:
    """Sums in the place of merges that are not made, or of those that they are asked for."""
    merging = context.reaches("merge")
    always = context.gate.spec.merge.surrogate == "always"
    # a sum of task vectors is its own forecast: where it is merged, it is run but once
    before = [m for m in results.methods if not merging or (always and not is_sum(m))]
    asked = [method for method in before if has_surrogate(method)]
    for done, method in enumerate(asked):
        context.tell(f"forecast {method.label}", done / len(asked))
        found = compare_sum(context, results, method, partial(_run_sum, context, results, method))
        yield (results := with_sum(results, method, found))
    if not merging:
        yield with_base(context, results)


def _run_sum(context: Context, results: Results, method: Method) -> tuple[MergedExpert, ...]:
    assert results.hidden is not None
    scales = results.hidden.scales[method.label]
    context.read_references()
    with context.workspace.engine.mixed(f"sum:{dict(scales)}", scales):
        return compare_loaded(context)


def compare_sum(
    context: Context, results: Results, method: Method, run: Callable[[], tuple[MergedExpert, ...]]
) -> tuple[MergedExpert, ...]:
    """How θ_0 + Σ λ_j τ_j with the ``method``'s λ_j compares with the experts, whichever method it
    stood for when it was ``run``: that is done once."""
    assert results.hidden is not None
    by_method = results.hidden.scales
    scales = tuple(by_method[method.label].items())
    for known in results.surrogates:
        if tuple(by_method[known.method].items()) == scales:
            return known.experts
    key = context.key("sum", scales=scales)
    return context.workspace.kept(tuple[MergedExpert, ...], key, run)


def with_sum(results: Results, method: Method, experts: tuple[MergedExpert, ...]) -> Results:
    """``results`` with what a sum that stands for ``method`` does to the ``experts``."""
    found = Surrogate(method=method.label, exact=is_sum(method), experts=experts)
    return replace(results, surrogates=(*results.surrogates, found))
