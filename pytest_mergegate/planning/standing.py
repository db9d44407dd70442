"""The budgets that no method changes, for any group: conflicts of its weights, and MDS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.errors import GateError
from pytest_mergegate.spec import INCREASES
from pytest_mergegate.wording import number_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.spec import GateSpec
    from pytest_mergegate.stages.conflict import ConflictResult
    from pytest_mergegate.stages.hidden import HiddenResult
    from pytest_mergegate.values import Value

RATIOS = {
    "max_magnitude_change_ratio": "magnitude_change_ratio",
    "max_sign_change_ratio": "sign_change_ratio",
    "max_conflicting_magnitude_ratio": "conflicting_magnitude_ratio",
}


class Standing:
    """Works out from the whole pool what the gate of a group would find: pairs are the same in any
    pool, and MDS comes from the distances on the group's own probes."""

    def __init__(
        self, spec: GateSpec, hidden: HiddenResult, conflict: ConflictResult | None
    ) -> None:
        self._limits: Mapping[str, float] = spec.effective_budget.limits
        self._bound = spec.judge == "bound"
        self._seed = spec.probes.seed
        self._names = hidden.states.names
        self._tasks = np.array(hidden.states.tasks)
        self._ratios = {budget: name for budget, name in RATIOS.items() if budget in self._limits}
        self._pairs = {} if conflict is None else {frozenset((p.a, p.b)): p for p in conflict.pairs}
        self._distances = None
        if "max_mds" in self._limits:
            based = spec.probes.normalize == "base"
            self._distances = metrics.pairwise_distances(
                hidden.states.experts,
                normalize=spec.probes.normalize,
                base_states=hidden.states.base if based else None,
            )
        if found := sorted(INCREASES & set(self._limits)):
            raise GateError(
                f"{found[0]} cannot be planned for: it is held against a baseline",
                fix="plan with a gate file without it",
            )

    def against(self, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What speaks against a group, and what cannot be told of it, one statement each."""
        against, undecided = [], []
        for budget, ratio in self._ratios.items():
            for k, one in enumerate(names):
                for other in names[:k]:
                    value = getattr(self._pairs[frozenset((one, other))], ratio)
                    told = self._told(ratio.replace("_", " "), value, budget, f"{other} and {one}")
                    (undecided if value.number is None else against).extend(told)
        if self._distances is not None:
            too_difficult, unknown = self._difficulty(names)
            against += too_difficult
            undecided += unknown
        return tuple(against), tuple(undecided)

    def _told(self, what: str, value: Value, budget: str, whose: str) -> list[str]:
        limit = self._limits[budget]
        if value.number is None:
            return [f"{what} of {whose} is not known ({value.reason})"]
        number = value.interval[1] if self._bound and value.interval else value.number
        if number <= limit:
            return []
        return [f"{what} of {whose} is {number_text(number)}, over {number_text(limit)}"]

    def _difficulty(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """MDS over the limit, as far as it is defined."""
        assert self._distances is not None
        at = [self._names.index(name) for name in names]
        per_probe = self._distances[np.isin(self._tasks, names)][:, at][:, :, at]
        try:
            similarity = metrics.hidden_similarity(per_probe.mean(axis=0))
            scores = metrics.merging_difficulty(similarity)
            if self._bound:
                tasks = [t for t in self._tasks.tolist() if t in names]
                scores = metrics.merging_difficulty_interval(
                    per_probe, tasks, confidence=0.95, seed=self._seed
                )[:, 1]
        except metrics.Undefined as undefined:
            return [], [f"MDS of {len(names)} experts is not defined ({undefined.reason})"]
        limit = self._limits["max_mds"]
        return [
            f"MDS of {name} is {number_text(float(score))}, over {number_text(limit)}"
            for name, score in zip(names, scores, strict=True)
            if not score <= limit
        ], []
