"""Stage 3: where the experts' hidden states part, and what mixing them would do (THEORY 3-6)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Interval, Value
from pytest_mergegate.engine.running.hidden_states import HiddenStates, collect_states
from pytest_mergegate.engine.running.trials import Trials, trials_of
from pytest_mergegate.merging.method import linear_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_mergegate.engine.running.executors import Executor
    from pytest_mergegate.engine.running.workspace import Workspace
    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.merging.method import Method

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ExpertStates:
    """What the states say of one expert."""

    mds: Value
    """Eq. 3, at least 1; infinite where every similarity is zero."""
    mean_similarity: Value
    shift: Value
    """rms‖h_i − h_0‖ / rms‖h_0‖ over all probes."""


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A merge's expected effect on one expert, before any merge."""

    method: str
    expert: str
    kind: Literal["states"]
    reading: str
    inputs: int
    """How many own probes were compared."""
    disagreement: Value
    disagreement_upper: Value
    kl: Value


@dataclass(frozen=True, kw_only=True)
class HiddenResult:
    """Distances, similarities, bounds and forecasts."""

    distances: FloatArray
    """d_ij, [N, N]."""
    squared: FloatArray
    """D2_ij, [N, N], un-normalised."""
    similarity: FloatArray | None
    """HiddenSim, [N, N]; None where it is undefined."""
    similarity_reason: str | None
    experts: Mapping[str, ExpertStates]
    bounds: Bounds
    grams: Mapping[str, FloatArray]
    """G⁽ⁱ⁾ by expert, [N, N]: inner products of the shifts on its own probes."""
    forecasts: tuple[Forecast, ...]
    scales: Mapping[str, Mapping[str, float]]
    """λ_j by method and expert."""
    states: HiddenStates


def run_hidden(
    workspace: Workspace,
    executor: Executor,
    spec: GateSpec,
    methods: Callable[[Bounds], Sequence[Method]],
    progress: Callable[[float], None],
    *,
    ahead: int = 0,
) -> HiddenResult:
    """Collect states, compare them, and forecast every method; loads a model only for what is not
    kept from before.

    ``methods`` gives the gate's methods for the best weights, which are known only from the states;
    ``ahead`` is how many of each expert's inputs a merge will be compared on.
    """
    states = collect_states(workspace, executor, progress, ahead=ahead)
    per_probe = metrics.pairwise_distances(
        states.experts,
        normalize=spec.probes.normalize,
        base_states=states.base if spec.probes.normalize == "base" else None,
    )
    distances = per_probe.mean(axis=0)
    squared = metrics.pairwise_squared_distances(states.experts).mean(axis=0)
    grams = {name: _gram(states, name) for name in states.names}
    bounds = _bounds(states, squared, list(grams.values()))
    try:
        similarity, reason = metrics.hidden_similarity(distances), None
    except metrics.Undefined as undefined:
        similarity, reason = None, undefined.reason
    trials = trials_of(workspace, states)
    scales = {m.label: _scales(m, workspace) for m in methods(bounds)}
    return HiddenResult(
        distances=distances,
        squared=squared,
        similarity=similarity,
        similarity_reason=reason,
        experts=_experts(states, per_probe, similarity, reason, spec),
        bounds=bounds,
        grams=grams,
        forecasts=tuple(
            _forecast(trials, label, expert, by_expert, spec)
            for label, by_expert in scales.items()
            for expert in states.names
        ),
        scales=scales,
        states=states,
    )


def _scales(method: Method, workspace: Workspace) -> dict[str, float]:
    """λ_j by expert: known, or measured on a sample of really merged tensors."""
    known = linear_scales(method)
    if known is not None:
        return known

    def measure() -> dict[str, float]:
        from pytest_mergegate.merging.merge import effective_scales

        return effective_scales(method, workspace.engine)

    key = workspace.key("scales", method=method.plain, experts=workspace.models)
    found = workspace.cache.json(key, measure)
    return {str(name): float(scale) for name, scale in found.items()}


def _experts(
    states: HiddenStates,
    per_probe: FloatArray,
    similarity: FloatArray | None,
    reason: str | None,
    spec: GateSpec,
) -> dict[str, ExpertStates]:
    base = metrics.mean_square_norm(states.base)
    shifts = [
        Value.computed(partial(metrics.relative_size, _mean_square_shift(states, i), base))
        for i in range(len(states.names))
    ]
    if similarity is None:
        none = Value.missing(reason or "undefined")
        return {
            name: ExpertStates(mds=none, mean_similarity=none, shift=shift)
            for name, shift in zip(states.names, shifts, strict=True)
        }
    difficulty = metrics.merging_difficulty(similarity)
    means = metrics.mean_similarity(similarity)
    intervals = difficulty_intervals(per_probe, states.tasks, spec)
    return {
        name: ExpertStates(
            mds=Value(number=float(difficulty[i]), interval=intervals[i] if intervals else None),
            mean_similarity=Value(number=float(means[i])),
            shift=shifts[i],
        )
        for i, name in enumerate(states.names)
    }


def difficulty_intervals(
    per_probe: FloatArray, tasks: Sequence[str], spec: GateSpec
) -> list[Interval] | None:
    """The interval of every expert's MDS, at the level of one look; None from too few probes."""
    try:
        ends = metrics.merging_difficulty_interval(
            per_probe, tasks, confidence=spec.probes.level, seed=spec.probes.seed
        )
    except metrics.Undefined:
        return None
    return [(float(low), float(high)) for low, high in ends]


def _mean_square_shift(states: HiddenStates, expert: int) -> float:
    return metrics.mean_square_norm(
        [own[expert] - base for own, base in zip(states.experts, states.base, strict=True)]
    )


def _bounds(states: HiddenStates, squared: FloatArray, grams: Sequence[FloatArray]) -> Bounds:
    best = metrics.minimum_distortion(squared)
    diameter = metrics.diameter(squared)
    base = metrics.mean_square_norm(states.base)
    count = len(states.names)
    uniform = np.full(count, 1 / count)
    try:
        minimax = metrics.minimax_weights(np.stack(grams)).weights
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
            how: Value.computed(partial(_worst_own_input, grams, own))
            for how, own in shares.items()
        },
    )


def _worst_own_input(grams: Sequence[FloatArray], weights: FloatArray) -> float:
    return metrics.worst_own_input_distortion(np.stack(grams), weights)


def _gram(states: HiddenStates, name: str) -> FloatArray:
    own = states.own(name)
    return metrics.own_input_gram([states.experts[k] for k in own], [states.base[k] for k in own])


def _forecast(
    trials: Trials | None,
    method: str,
    expert: str,
    scales: Mapping[str, float],
    spec: GateSpec,
) -> Forecast:
    reading, agreement = ("none", None) if trials is None else trials.forecast(expert, scales)
    if agreement is None:
        why = "positions_not_answer" if trials is None else "choices_share_first_token"
        missing = Value.missing(why)
        return Forecast(
            method=method,
            expert=expert,
            kind="states",
            reading="none",
            inputs=0,
            disagreement=missing,
            disagreement_upper=missing,
            kl=missing,
        )
    upper = metrics.disagreement_bound(agreement.disagreements, agreement.n, confidence=spec.level)
    return Forecast(
        method=method,
        expert=expert,
        kind="states",
        reading=reading,
        inputs=agreement.n,
        disagreement=Value(number=agreement.rate),
        disagreement_upper=Value(number=upper),
        kl=Value(number=agreement.kl),
    )
