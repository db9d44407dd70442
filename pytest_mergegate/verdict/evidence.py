"""What a limit is held against, how the two compare, and how much more evidence would decide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_mergegate import metrics
from pytest_mergegate.gate.spec import FEWEST

if TYPE_CHECKING:
    from pytest_mergegate.common.values import Value
    from pytest_mergegate.stages.merge_versus_experts import MergedExpert

Status = Literal["pass", "inconclusive", "fail"]


def compare(limit: float, *, passing: float | None, failing: float | None) -> Status:
    """How evidence stands against ``limit``: it passes where the number ``passing`` is within it,
    and fails where ``failing`` is not. Between the two, or where a number is missing, it is open.
    """
    if failing is not None and not (failing <= limit):  # NaN fails
        return "fail"
    return "pass" if passing is not None and passing <= limit else "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A value, in the budget's own direction (a loss is positive), and where it comes from."""

    value: Value
    basis: str
    """``conflict``, ``sampled`` (rows of the weights), ``hidden``, ``predicted``, ``merged``,
    ``measured``, ``certified``; or what is missing."""
    detail: str = ""
    """A word to add to the message."""
    undecided: bool = False
    """Whether this is too little to decide by, whatever the value."""
    inputs: int | None = None
    """Of a share of inputs: on how many distinct ones it rests."""
    cut: int = 0
    """How many answers were cut before any difference showed: these may differ or not."""
    vacuous: str = ""
    """Why a pass would say nothing of the merge; empty where it does."""
    bound: float | None = None
    """The one-sided bound, where there is one beside the interval."""

    @property
    def few(self) -> bool:
        """Whether only a bound can pass: on so few inputs a share says next to nothing."""
        return self.inputs is not None and self.inputs < FEWEST

    def passing(self, mode: str) -> float | None:
        """What has to be within the limit for a pass: the bad end of the interval by ``bound``,
        and on few inputs; else the value, counting cut answers as different."""
        number = self.value.number
        if self.exact or number is None:
            return number
        bad_end = self.value.interval[1] if self.value.interval else None
        if mode == "bound":
            return bad_end
        if self.few:
            return bad_end if self.bound is None else self.bound
        if not self.inputs or not self.cut:
            return number
        return (round(number * self.inputs) + self.cut) / self.inputs  # of counts: no round-off

    def failing(self, mode: str) -> float | None:
        """What has to be over the limit for a fail: never an answer that was merely cut."""
        if self.exact or mode == "point" or self.cut:
            return self.value.number
        return self.passing(mode)

    @property
    def exact(self) -> bool:
        """Whether there is no sampling error in it, or it is a bound already."""
        return self.basis in {"certified", "conflict"}


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
