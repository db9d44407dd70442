"""MDS within any group of a pool, from the distances on the group's own probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.stages.hidden import HiddenResult


class Difficulty:
    """What the gate of a group would find: its probes are those of the pool's that are its own."""

    def __init__(self, spec: GateSpec, hidden: HiddenResult) -> None:
        self._names = hidden.states.names
        self._tasks = np.array(hidden.states.tasks)
        self._probes = spec.probes
        self._distances = metrics.pairwise_distances(
            hidden.states.experts,
            normalize=spec.probes.normalize,
            base_states=hidden.states.base if spec.probes.normalize == "base" else None,
        )

    def of(self, names: Sequence[str], *, bad_end: bool = False) -> dict[str, float]:
        """MDS by expert, infinite where every similarity is zero, or the upper end of its interval.

        Raises Undefined, as for fewer than three experts.
        """
        at = [self._names.index(name) for name in names]
        per_probe = self._distances[np.isin(self._tasks, names)][:, at][:, :, at]
        scores = metrics.merging_difficulty(metrics.hidden_similarity(per_probe.mean(axis=0)))
        if bad_end:
            own = [task for task in self._tasks.tolist() if task in names]
            scores = metrics.merging_difficulty_interval(
                per_probe, own, confidence=self._probes.level, seed=self._probes.seed
            )[:, 1]
        return dict(zip(names, scores.tolist(), strict=True))
