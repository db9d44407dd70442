"""Stage 3: where the experts' hidden states part, and what mixing them would do (THEORY 3-6)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import partial

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import Float64s, result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.probes import HiddenStates, collect_states
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.gate.spec import GateSpec
from pytest_mergegate.merging.method import Method, with_shares
from pytest_mergegate.stages.context import BudgetQuestions, Context, Results
from pytest_mergegate.stages.forecasts import Forecast, forecast_all, method_scales, run_surrogates
from pytest_mergegate.stages.pool_parts import compare_experts, distances_per_probe


@result
class ExpertStates:
    """What the states say of one expert."""

    mds: Value
    """Eq. 3, at least 1; infinite where every similarity is zero."""
    mean_similarity: Value
    shift: Value
    """rms‖h_i − h_0‖ / rms‖h_0‖ over all probes."""


@result
class Bounds:
    """What no merge can beat, and what the best convex mix reaches (THEORY 5)."""

    diameter: float
    relative_diameter: Value
    minimum_distortion: float
    weights: Mapping[str, float]
    """Of the minimum enclosing ball."""
    uniform_distortion: float
    paper_bound: float
    minimax_weights: Mapping[str, float]
    """Those that leave the worst-off expert best off on its own inputs."""
    own_input_distortion: Mapping[str, Value]
    """max_i δ_i² / G⁽ⁱ⁾_ii predicted under ``uniform``, ``optimal`` and ``minimax`` shares: 0 keeps
    every expert, 1 is as far from one as the base."""


@result
class HiddenResult:
    """Distances, similarities, bounds and forecasts."""

    distances: Float64s
    """d_ij, [N, N]."""
    squared: Float64s
    """D2_ij, [N, N], un-normalised."""
    similarity: Float64s | None
    """HiddenSim, [N, N]; None where it is undefined."""
    similarity_reason: str | None
    experts: Mapping[str, ExpertStates]
    bounds: Bounds
    grams: Mapping[str, Float64s]
    """G⁽ⁱ⁾ by expert, [N, N]: inner products of the shifts on its own probes."""
    states: HiddenStates
    scales: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """λ_j by method and expert."""
    forecasts: tuple[Forecast, ...] = ()


def run(context: Context, earlier: Results, *, forecasts: bool = True) -> Iterator[Results]:
    """States, what follows from them, and sums that stand for merges; without ``forecasts`` of the
    gate's methods the states are read for other merges. Raises GateError."""
    workspace, merging = context.workspace, context.gate.spec.merge
    yield (earlier := replace(earlier, device=workspace.device, computing=workspace.computing))
    facts = workspace.facts
    yield (earlier := replace(earlier, positions=facts.positions))
    if context.reaches("merge") and not facts.has_head:
        workspace.engine.require_head()  # before anything is computed in vain
    asked = merging.surrogate == "always" or context.decisions.compares_merges
    comparing = facts.has_head and (asked or context.reaches("merge"))
    ahead = context.gate.spec.certificate.per_task if comparing else 0

    def look() -> HiddenResult:
        tell = partial(context.tell, "hidden states")
        states = collect_states(workspace, context.executor, tell, ahead=ahead)
        return compare_states(states, context.gate.spec)

    hidden = until_decided(look, workspace, context.decisions)
    methods: tuple[Method, ...] = ()
    if forecasts:
        methods = weighted(earlier.methods, merging.weights, hidden.bounds)
        scales = {m.label: method_scales(m, context.pool.names, workspace) for m in methods}
        mixed = forecast_all(scales, hidden.states, context)
        hidden = replace(hidden, scales=scales, forecasts=mixed)
    decodes = comparing and any(d.reading == "greedy" for d in workspace.draws.values())
    answered = workspace.answer_limit if facts.forced or decodes else None
    results = replace(
        earlier, hidden=hidden, methods=methods, probes=workspace.per_task, answer_limit=answered
    )
    yield results
    if comparing and methods:
        yield from run_surrogates(context, results)


def weighted(methods: Sequence[Method], weights: object, bounds: Bounds) -> tuple[Method, ...]:
    """The methods under those ``merge.weights`` that are known only from the states."""
    best = {"optimal": bounds.weights, "minimax": bounds.minimax_weights}
    if not isinstance(weights, str) or weights not in best:
        return tuple(methods)
    return tuple(with_shares(method, best[weights]) for method in methods)


def until_decided(
    look: Callable[[], HiddenResult], workspace: Workspace, decisions: BudgetQuestions
) -> HiddenResult:
    """The first ``look`` at the states that leaves no MDS open, with more probes each time; or the
    last, where there are no more."""
    while True:
        found = look()
        is_open = any(decisions.mds_is_open(expert.mds) for expert in found.experts.values())
        if not is_open or not workspace.draw_more():
            return found


def compare_states(states: HiddenStates, spec: GateSpec) -> HiddenResult:
    """Distances, similarities and bounds; nothing is forecast yet. Raises GateError."""
    names, base = states.names, metrics.mean_square_norm(states.base)
    per_probe = distances_per_probe(states, spec)
    whole = compare_experts(names, per_probe, states.tasks, spec)
    undefined, similarity = whole.mds[names[0]].reason, whole.similarity
    means = [Value.missing(undefined or "undefined")] * len(names)
    if similarity is not None:
        means = [Value(number=mean) for mean in metrics.mean_similarity(similarity).tolist()]
    experts = {}
    for i, name in enumerate(names):
        shifts = [own[i] - zero for own, zero in zip(states.experts, states.base, strict=True)]
        shift = partial(metrics.relative_size, metrics.mean_square_norm(shifts), base)
        experts[name] = ExpertStates(
            mds=whole.mds[name], mean_similarity=means[i], shift=Value.computed(shift)
        )
    grams = {}
    for name in names:
        own = states.own(name)
        grams[name] = metrics.own_input_gram(
            [states.experts[k] for k in own], [states.base[k] for k in own]
        )
    squared = metrics.pairwise_squared_distances(states.experts).mean(axis=0)
    return HiddenResult(
        distances=whole.distances,
        squared=squared,
        similarity=similarity,
        similarity_reason=undefined,
        experts=experts,
        bounds=_bounds(states, squared, np.stack(list(grams.values())), base),
        grams=grams,
        states=states,
    )


def _bounds(states: HiddenStates, squared: Float64s, grams: Float64s, base: float) -> Bounds:
    best = metrics.minimum_distortion(squared)
    diameter = metrics.diameter(squared)
    count = len(states.names)
    uniform = np.full(count, 1 / count)
    try:
        minimax = metrics.minimax_weights(grams).weights
    except metrics.Undefined:
        minimax = uniform
    shares = {"uniform": uniform, "optimal": best.weights, "minimax": minimax}
    return Bounds(
        diameter=diameter,
        relative_diameter=Value.computed(lambda: metrics.relative_size(diameter**2, base)),
        minimum_distortion=best.value,
        weights=dict(zip(states.names, best.weights.tolist(), strict=True)),
        uniform_distortion=metrics.uniform_distortion(squared),
        paper_bound=metrics.paper_bound(squared, states.base[0].shape[-1]),
        minimax_weights=dict(zip(states.names, minimax.tolist(), strict=True)),
        own_input_distortion={
            how: Value.computed(partial(metrics.worst_own_input_distortion, grams, own))
            for how, own in shares.items()
        },
    )
