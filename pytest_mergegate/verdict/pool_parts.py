"""Distances and MDS among some of a pool's experts, as a gate of those alone would find them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.stages.hidden import difficulty_intervals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.stages.hidden import HiddenResult

    FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PoolPart:
    """Some experts on their own probes alone."""

    names: tuple[str, ...]
    distances: FloatArray
    similarity: FloatArray | None
    mds: Mapping[str, Value]


class PoolParts:
    """Any part of a pool, from the states of the whole.

    A distance is a mean over the probes of every task, so those of the others are left out too.
    """

    def __init__(self, hidden: HiddenResult, spec: GateSpec) -> None:
        self._hidden = hidden
        self._spec = spec

    @cached_property
    def _per_probe(self) -> FloatArray:
        states, normalize = self._hidden.states, self._spec.probes.normalize
        return metrics.pairwise_distances(
            states.experts,
            normalize=normalize,
            base_states=states.base if normalize == "base" else None,
        )

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
        per_probe = self._per_probe[own][:, at][:, :, at]
        distances, similarity = per_probe.mean(axis=0), None
        try:
            similarity = metrics.hidden_similarity(distances)
            scores = metrics.merging_difficulty(similarity)
        except metrics.Undefined as undefined:
            found = [Value.missing(undefined.reason)] * len(names)
        else:
            tasks = [states.tasks[k] for k in own]
            ends = difficulty_intervals(per_probe, tasks, self._spec) if intervals else None
            found = [
                Value(number=float(score), interval=ends[i] if ends else None)
                for i, score in enumerate(scores)
            ]
        return PoolPart(
            names=tuple(names),
            distances=distances,
            similarity=similarity,
            mds=dict(zip(names, found, strict=True)),
        )
