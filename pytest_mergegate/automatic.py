"""Limits that the team's own registry sets: ``max_mds: auto@0.1``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.metrics import Undefined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.calibration.observations import Observation
    from pytest_mergegate.gatefile import Gate

_SCORE = {"max_mds": "mds", "max_disagreement": "disagreement"}
_STRICTLY = 1e-6
"""A value has to stay below the threshold: so much of it lies between that and the limit."""


@dataclass(frozen=True, kw_only=True)
class AutomaticLimit:
    """What became of one ``auto@RATE``."""

    limit: float | None
    """None where it could not be certified."""
    text: str
    """Where the limit comes from, or what is lacking."""


def resolve(gate: Gate, past: Sequence[Observation]) -> tuple[Gate, dict[str, AutomaticLimit]]:
    """The gate with the limits that ``past`` merges give, and what became of each.

    One that cannot be certified stays as it is, and nothing is within it.
    """
    budget = gate.spec.effective_budget
    found = {name: _limit(_SCORE[name], rate, past) for name, rate in budget.automatic.items()}
    known = {name: auto.limit for name, auto in found.items() if auto.limit is not None}
    return gate.with_budget(budget.model_copy(update=known)), found


def _limit(score: str, rate: float, past: Sequence[Observation]) -> AutomaticLimit:
    from pytest_mergegate.calibration.thresholds import miss_controlled

    try:
        threshold = miss_controlled(past, score, rate)
    except Undefined as undefined:
        return AutomaticLimit(limit=None, text=f"auto@{rate:g}: {undefined}")
    said = f"{threshold.collapses} recorded collapses"
    if not threshold.value > 0:
        return AutomaticLimit(
            limit=None,
            text=f"auto@{rate:g}: too many of {said} had a score of 0 to tell any apart",
        )
    limit = min(threshold.value, 1e300) * (1 - _STRICTLY)
    return AutomaticLimit(limit=limit, text=f"auto@{rate:g}: misses at most {rate:.0%}, by {said}")
