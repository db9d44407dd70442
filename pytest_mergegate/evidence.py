"""How much more evidence would decide what is undecided."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pytest_mergegate import metrics

if TYPE_CHECKING:
    from pytest_mergegate.stages.comparison import MergedExpert
    from pytest_mergegate.values import Value

Status = Literal["pass", "inconclusive", "fail"]
FEWEST = 30
"""A share of fewer distinct inputs passes on its bound alone (THEORY 9)."""


def compare(limit: float, *, passing: float | None, failing: float | None) -> Status:
    """How evidence stands against ``limit``: it passes where the number ``passing`` is within it,
    and fails where ``failing`` is not. Between the two, or where a number is missing, it is open.
    """
    if failing is not None and not (failing <= limit):  # NaN fails
        return "fail"
    return "pass" if passing is not None and passing <= limit else "inconclusive"


def examples_needed(value: Value, limit: float, examples: int) -> int | None:
    """On about how many examples the interval of a measured value would leave ``limit`` out.

    An interval shrinks with the square root of their number. None where the value is the limit.
    """
    assert value.number is not None
    assert value.interval is not None
    low, high = value.interval
    side = high - value.number if limit > value.number else value.number - low
    distance = abs(value.number - limit)
    ratio = side / distance if distance else math.inf
    if not examples * ratio**2 < 1e12:
        return None
    return max(examples + 1, math.ceil(examples * ratio**2))


def inputs_text(expert: MergedExpert, limit: float, confidence: float) -> str | None:
    """What a certificate lacks whose bound is over ``limit`` while the rate that was seen is below
    it; None where that is not so."""
    rate = expert.disagreement.number
    if rate is None or expert.disagreement_upper <= limit:
        return None
    differing = round(rate * expert.inputs)
    try:
        needed = metrics.inputs_needed(
            differing + expert.cut, expert.inputs, limit, confidence=confidence
        )
    except metrics.Undefined:
        if not expert.cut or differing >= limit * expert.inputs:
            return None
        return (
            f"{expert.cut} of {expert.inputs} answers were cut, and count as different until "
            "probes.max_answer_tokens lets them end"
        )
    return f"at the rate of {differing + expert.cut} in {expert.inputs} it takes {needed} inputs"
