"""Stage 3: where the experts' hidden states part, and what mixing them would do (THEORY 3-6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import Float64s, result
from pytest_mergegate.common.values import Interval, Value
from pytest_mergegate.engine.running.hidden_states import HiddenStates, collect_states
from pytest_mergegate.merging.method import with_shares
from pytest_mergegate.stages.forecasts import Forecast, forecast_all, run_surrogates, scales_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_mergegate.engine.running.workspace import Workspace
    from pytest_mergegate.gate.options import Stage
    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.stages.context import BudgetQuestions, Context
    from pytest_mergegate.stages.results import Results


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


@dataclass(frozen=True)
class Hidden:
    """The stage."""

    name: ClassVar[Stage] = "hidden"
    forecasts: bool = True
    """Whether the gate's methods are forecast; or else the states are read for other merges."""

    def run(self, context: Context, earlier: Results) -> Iterator[Results]:
        """States, what follows from them, and sums that stand for merges. Raises GateError."""
        workspace = context.workspace
        yield (earlier := replace(earlier, device=workspace.device))
        facts = workspace.facts
        yield (earlier := replace(earlier, positions=facts.positions))
        if context.reaches("merge") and not facts.has_head:
            workspace.engine.require_head()  # before anything is computed in vain
        comparing = context.compares and facts.has_head
        hidden = _read(context)
        methods: tuple[Method, ...] = ()
        if self.forecasts:
            methods = _with_shares(context.gate.spec.merge.weights, earlier.methods, hidden.bounds)
            scales = scales_of(methods, context)
            forecasts = forecast_all(scales, hidden.states, context)
            hidden = replace(hidden, scales=scales, forecasts=forecasts)
        results = replace(earlier, hidden=hidden, methods=methods, probes=workspace.per_task)
        yield results
        if comparing and methods:
            yield from run_surrogates(context, results)


def _read(context: Context) -> HiddenResult:
    """What the states say, of as many probes as the limits on an MDS take."""
    workspace, spec = context.workspace, context.gate.spec
    with context.executor() as executor:

        def look() -> HiddenResult:
            tell = partial(context.tell, "hidden states")
            return compare_states(collect_states(workspace, executor, tell), spec)

        return until_decided(look, workspace, context.decisions)


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
    """Distances, similarities and bounds; nothing is forecast yet."""
    per_probe = metrics.pairwise_distances(
        states.experts,
        normalize=spec.probes.normalize,
        base_states=states.base if spec.probes.normalize == "base" else None,
    )
    distances = per_probe.mean(axis=0)
    squared = metrics.pairwise_squared_distances(states.experts).mean(axis=0)
    grams = {name: _gram(states, name) for name in states.names}
    try:
        similarity, reason = metrics.hidden_similarity(distances), None
    except metrics.Undefined as undefined:
        similarity, reason = None, undefined.reason
    return HiddenResult(
        distances=distances,
        squared=squared,
        similarity=similarity,
        similarity_reason=reason,
        experts=_experts(states, per_probe, similarity, reason, spec),
        bounds=_bounds(states, squared, list(grams.values())),
        grams=grams,
        states=states,
    )


def _with_shares(
    wanted: str | Mapping[str, float], methods: Sequence[Method], bounds: Bounds
) -> tuple[Method, ...]:
    """The methods with the best weights, which are known only from the states."""
    if wanted == "uniform" or not isinstance(wanted, str):
        return tuple(methods)
    shares = bounds.weights if wanted == "optimal" else bounds.minimax_weights
    return tuple(with_shares(method, shares) for method in methods)


def _experts(
    states: HiddenStates,
    per_probe: Float64s,
    similarity: Float64s | None,
    reason: str | None,
    spec: GateSpec,
) -> dict[str, ExpertStates]:
    base = metrics.mean_square_norm(states.base)
    mds = means = [Value.missing(reason or "undefined")] * len(states.names)
    if similarity is not None:
        difficulty = metrics.merging_difficulty(similarity).tolist()
        intervals = difficulty_intervals(per_probe, states.tasks, spec)
        mds = [
            Value(number=number, interval=intervals[i] if intervals else None)
            for i, number in enumerate(difficulty)
        ]
        means = [Value(number=mean) for mean in metrics.mean_similarity(similarity).tolist()]
    found = {}
    for i, name in enumerate(states.names):
        shifts = [own[i] - zero for own, zero in zip(states.experts, states.base, strict=True)]
        shift = Value.computed(
            partial(metrics.relative_size, metrics.mean_square_norm(shifts), base)
        )
        found[name] = ExpertStates(mds=mds[i], mean_similarity=means[i], shift=shift)
    return found


def difficulty_intervals(
    per_probe: Float64s, tasks: Sequence[str], spec: GateSpec
) -> list[Interval] | None:
    """The interval of every expert's MDS, at the level of one look; None from too few probes."""
    try:
        ends = metrics.merging_difficulty_interval(
            per_probe, tasks, confidence=spec.probes.level, seed=spec.probes.seed
        )
    except metrics.Undefined:
        return None
    return [(float(low), float(high)) for low, high in ends]


def _bounds(states: HiddenStates, squared: Float64s, grams: Sequence[Float64s]) -> Bounds:
    own_grams = np.stack(grams)
    best = metrics.minimum_distortion(squared)
    diameter = metrics.diameter(squared)
    base = metrics.mean_square_norm(states.base)
    count = len(states.names)
    uniform = np.full(count, 1 / count)
    try:
        minimax = metrics.minimax_weights(own_grams).weights
    except metrics.Undefined:
        minimax = uniform
    shares = {"uniform": uniform, "optimal": best.weights, "minimax": minimax}
    return Bounds(
        diameter=diameter,
        relative_diameter=Value.computed(lambda: metrics.relative_size(diameter**2, base)),
        minimum_distortion=best.value,
        weights={name: float(w) for name, w in zip(states.names, best.weights, strict=True)},
        uniform_distortion=metrics.uniform_distortion(squared),
        paper_bound=metrics.paper_bound(squared, states.base[0].shape[-1]),
        minimax_weights=dict(zip(states.names, minimax.tolist(), strict=True)),
        own_input_distortion={
            how: Value.computed(partial(metrics.worst_own_input_distortion, own_grams, own))
            for how, own in shares.items()
        },
    )


def _gram(states: HiddenStates, name: str) -> Float64s:
    own = states.own(name)
    return metrics.own_input_gram([states.experts[k] for k in own], [states.base[k] for k in own])
