"""Limits that the team's own registry sets: ``max_mds: auto@0.1``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.errors import GateError
from pytest_mergegate.metrics import Undefined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_mergegate.calibration.observations import Observation
    from pytest_mergegate.gatefile import Gate

_SCORE = {"max_mds": "mds", "max_disagreement": "disagreement"}


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


def with_known_limits(gate: Gate, past: Callable[[], Sequence[Observation]]) -> Gate:
    """The gate with all its limits as numbers. Raises GateError for one that is not known."""
    if not gate.spec.effective_budget.automatic:
        return gate
    known, found = resolve(gate, past())
    for name, auto in found.items():
        if auto.limit is None:
            raise GateError(
                f"budget.{name}: {auto.text}",
                where=gate.where("budget", name),
                fix="record more merges, or write a number",
            )
    return known


def _limit(score: str, rate: float, past: Sequence[Observation]) -> AutomaticLimit:
    from pytest_mergegate.calibration.observations import SAME
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
    # below the threshold by more than its rounding, for what is as high as it does not pass
    limit = min(threshold.value, 1e300) * (1 - SAME)
    return AutomaticLimit(limit=limit, text=f"auto@{rate:g}: misses at most {rate:.0%}, by {said}")
