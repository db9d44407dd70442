"""Limits that the team's own registry sets: ``max_mds: auto@0.1``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.metrics import Undefined
from pytest_mergegate.verdict.budgets import BUDGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.history.calibration.observations import Observation
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.verdict.budgets import BudgetKind


@dataclass(frozen=True, kw_only=True)
class AutomaticLimit:
    """What became of one ``auto@RATE``."""

    limit: float | None
    """None where it could not be certified."""
    text: str
    """Where the limit comes from, or what is lacking."""
    inputs: int = 0
    """On how many inputs of each expert the recorded scores are, at most: one on fewer may fall
    short of the limit by chance."""


def resolve(
    gate: Gate, pool: Pool, past: Sequence[Observation]
) -> tuple[Gate, dict[str, AutomaticLimit]]:
    """The gate with the limits that ``past`` merges give, and what became of each.

    Only merges of the pool's base count, whose losses are by the metric and reading of one of its
    experts and of inputs that were not compared; where experts differ in these, the strictest limit
    holds. One that cannot be certified stays as it is, and nothing is within it.
    """
    spec, budget = gate.spec, gate.spec.effective_budget
    if not budget.automatic:
        return gate, {}
    kinds = {(expert.metric, spec.reading_of(name)) for name, expert in spec.experts.items()}
    like = [
        [one for one in past if one.is_like(pool.base.fingerprint, *kind)] for kind in sorted(kinds)
    ]
    found = {
        name: min((_limit(BUDGETS[name], rate, own) for own in like), key=_strictness)
        for name, rate in budget.automatic.items()
    }
    known = {name: auto.limit for name, auto in found.items() if auto.limit is not None}
    return gate.with_budget(budget.model_copy(update=known)), found


def with_known_limits(gate: Gate, pool: Pool, past: Callable[[], Sequence[Observation]]) -> Gate:
    """The gate with all its limits as numbers. Raises GateError for one that is not known."""
    if not gate.spec.effective_budget.automatic:
        return gate
    known, found = resolve(gate, pool, past())
    for name, auto in found.items():
        if auto.limit is None:
            raise GateError(
                f"budget.{name}: {auto.text}",
                where=gate.where("budget", name),
                fix="record more merges, or write a number",
            )
    return known


def _strictness(found: AutomaticLimit) -> float:
    return -1.0 if found.limit is None else found.limit


def _limit(kind: BudgetKind, rate: float, past: Sequence[Observation]) -> AutomaticLimit:
    from pytest_mergegate.history.calibration.observations import SAME
    from pytest_mergegate.history.calibration.performance import miss_controlled

    assert kind.calibrated is not None
    try:
        threshold = miss_controlled(past, kind.quantity, rate)
    except Undefined as undefined:
        return AutomaticLimit(limit=None, text=f"auto@{rate:g}: {undefined}")
    pools = "1 pool" if threshold.pools == 1 else f"{threshold.pools} pools"
    said = f"{threshold.collapses} recorded collapses of {pools}"
    if not threshold.value > 0:
        text = f"auto@{rate:g}: too many of {said} had a score of 0 to tell any apart"
        return AutomaticLimit(limit=None, text=text)
    counts = [getattr(one, kind.calibrated) for one in past if one.collapsed]
    return AutomaticLimit(
        # below the threshold by more than its rounding, for what is as high as it does not pass
        limit=min(threshold.value, 1e300) * (1 - SAME),
        text=f"auto@{rate:g}: misses at most {rate:.0%}, by {said}",
        # where one is not known, more than anybody has
        inputs=max((sys.maxsize if count is None else count for count in counts), default=0),
    )
