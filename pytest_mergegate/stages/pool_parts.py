"""Distances and MDS among the experts of a pool, or of a part of it, which is as good a pool."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.values import Interval, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.common.plain import Float64s
    from pytest_mergegate.engine.running.probes import HiddenStates
    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.stages.hidden import HiddenResult


@dataclass(frozen=True, kw_only=True)
class PoolPart:
    """Some experts on their own probes alone."""

    names: tuple[str, ...]
    distances: Float64s
    """d_ij, [N, N]."""
    similarity: Float64s | None
    """HiddenSim, [N, N]; None where it is undefined."""
    mds: Mapping[str, Value]


class PoolParts:
    """Any part of a pool, from the states of the whole.

    A distance is a mean over the probes of every task, so those of the others are left out too.
    """

    def __init__(self, hidden: HiddenResult, spec: GateSpec) -> None:
        self.names = hidden.states.names
        self._hidden = hidden
        self._spec = spec

    @cached_property
    def _per_probe(self) -> Float64s:
        return distances_per_probe(self._hidden.states, self._spec)

    def of(self, names: Sequence[str], *, intervals: bool = True) -> PoolPart:
        """The experts ``names``; ``intervals`` of their MDS are not free."""
        hidden, states = self._hidden, self._hidden.states
        if set(names) == set(states.names):
            return PoolPart(
                names=states.names,
                distances=hidden.distances,
                similarity=hidden.similarity,
                mds={name: expert.mds for name, expert in hidden.experts.items()},
            )
        at = [states.names.index(name) for name in names]
        own = [k for k, task in enumerate(states.tasks) if task in names]
        tasks = [states.tasks[k] for k in own]
        per_probe = self._per_probe[own][:, at][:, :, at]
        return compare_experts(names, per_probe, tasks, self._spec, intervals=intervals)


def distances_per_probe(states: HiddenStates, spec: GateSpec) -> Float64s:
    """Distances between all experts, [probes, N, N]. Raises GateError for a state that is zero."""
    normalize = spec.probes.normalize
    try:
        return metrics.pairwise_distances(
            states.experts,
            normalize=normalize,
            base_states=states.base if normalize == "base" else None,
        )
    except metrics.Undefined as undefined:
        raise GateError(
            f"distances are undefined: {undefined}", fix="write probes.normalize: none"
        ) from None


def compare_experts(
    names: Sequence[str],
    per_probe: Float64s,
    tasks: Sequence[str],
    spec: GateSpec,
    *,
    intervals: bool = True,
) -> PoolPart:
    """The experts ``names`` by their distances ``per_probe`` [probes, N, N], each of which is of
    one of the ``tasks`` [probes]."""
    distances, similarity = per_probe.mean(axis=0), None
    try:
        similarity = metrics.hidden_similarity(distances)
        scores = metrics.merging_difficulty(similarity)
    except metrics.Undefined as undefined:
        found = [Value.missing(undefined.reason)] * len(names)
    else:
        ends = difficulty_intervals(per_probe, tasks, spec) if intervals else None
        found = [
            Value(number=float(score), interval=ends[i] if ends else None)
            for i, score in enumerate(scores)
        ]
    mds = dict(zip(names, found, strict=True))
    return PoolPart(names=tuple(names), distances=distances, similarity=similarity, mds=mds)


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
