"""The budgets that no method changes, for any group: conflicts of its weights, and MDS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.planning.difficulty import Difficulty
from pytest_mergegate.verdict.budgets import increases

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.common.values import Value
    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.stages.conflict import ConflictResult
    from pytest_mergegate.stages.hidden import HiddenResult

RATIOS = {
    "max_magnitude_change_ratio": "magnitude_change_ratio",
    "max_sign_change_ratio": "sign_change_ratio",
    "max_conflicting_magnitude_ratio": "conflicting_magnitude_ratio",
}


class Standing:
    """Works out from the whole pool what the gate of a group would find: pairs are the same in any
    pool."""

    def __init__(
        self, spec: GateSpec, hidden: HiddenResult, conflict: ConflictResult | None
    ) -> None:
        self._limits: Mapping[str, float] = spec.effective_budget.limits
        self._bound = spec.judge == "bound"
        self._ratios = {budget: name for budget, name in RATIOS.items() if budget in self._limits}
        self._pairs = {} if conflict is None else {frozenset((p.a, p.b)): p for p in conflict.pairs}
        self._difficulty = Difficulty(spec, hidden) if "max_mds" in self._limits else None

    def against(self, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What speaks against a group, and what cannot be told of it, one statement each."""
        against: list[str] = []
        undecided: list[str] = []
        for budget, ratio in self._ratios.items():
            for k, one in enumerate(names):
                for other in names[:k]:
                    value = getattr(self._pairs[frozenset((one, other))], ratio)
                    told = self._told(ratio.replace("_", " "), value, budget, f"{other} and {one}")
                    (undecided if value.number is None else against).extend(told)
        if self._difficulty is not None:
            try:
                scores = self._difficulty.of(names, bad_end=self._bound)
            except metrics.Undefined as undefined:
                undecided.append(f"MDS of {len(names)} experts is not defined ({undefined.reason})")
            else:
                limit = self._limits["max_mds"]
                against += [
                    f"MDS of {name} is {number_text(score)}, over {number_text(limit)}"
                    for name, score in scores.items()
                    if not score <= limit
                ]
        return tuple(against), tuple(undecided)

    def _told(self, what: str, value: Value, budget: str, whose: str) -> list[str]:
        limit = self._limits[budget]
        if value.number is None:
            return [f"{what} of {whose} is not known ({value.reason})"]
        number = value.interval[1] if self._bound and value.interval else value.number
        if number <= limit:
            return []
        return [f"{what} of {whose} is {number_text(number)}, over {number_text(limit)}"]


def refuse_increases(spec: GateSpec) -> None:
    """Raise GateError for budgets that no plan can look ahead to."""
    if found := sorted(increases(spec.effective_budget.limits)):
        raise GateError(
            f"{found[0]} cannot be planned for: it is held against a baseline",
            fix="plan with a gate file without it",
        )
