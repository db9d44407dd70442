"""Numbers with their units, and words where there is no number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.common.wording import distinct, number_text

if TYPE_CHECKING:
    from pytest_mergegate.common.records import Interval
    from pytest_mergegate.report.types import VerdictRecord

SOURCES = {
    "certificate": "certificate",
    "registry": "your recorded merges",
    "beds": "merges of the shipped beds",
    "paper": "the paper's 32 rows",
}
MARKS = {"pass": "✓", "fail": "✕", "inconclusive": "?", "error": "!"}
"""Beside the word: a status is never told by colour alone."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value of a table."""

    text: str | None
    """None where there is no number."""
    reason: str | None = None
    """Why there is none."""
    notes: tuple[str, ...] = ()
    """An interval, a bound: what stands below the value."""
    status: str | None = None
    """Of the verdict on this value."""


def missing(reason: str | None) -> str:
    """What is said in place of a number."""
    return f"not computed: {reason or 'no reason given'}"


def percent(share: float | None) -> str:
    """A share as a percentage, unit included."""
    return missing(None) if share is None else f"{100 * share + 0.0:.1f} %"


def span(ends: Interval | None, scale: float = 1, decimals: int | None = None) -> str | None:
    """An interval in brackets; a null end is infinite, a negative ``scale`` turns it round."""
    if ends is None:
        return None
    low = float("-inf") if ends[0] is None else ends[0]
    high = float("inf") if ends[1] is None else ends[1]
    return "[{}, {}]".format(*(_end(end, decimals) for end in sorted((low * scale, high * scale))))


def _end(end: float, decimals: int | None) -> str:
    if math.isinf(end):
        return "∞" if end > 0 else "−∞"
    return number_text(end) if decimals is None else f"{end + 0.0:.{decimals}f}"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict in words, with the unit of its budget."""

    name: str
    value: str | None
    reason: str | None
    limit: str
    interval: str | None
    record: VerdictRecord
    fill: float | None
    """How far along its bar the value is; None without one."""
    mark: float
    """Where on the bar the limit is."""


_NAMES = {
    "max_mds": "MDS",
    "max_mds_increase": "increase of MDS",
    "max_loss": "loss of score",
    "max_loss_increase": "increase of the loss",
}


def scale_of(budget: str) -> tuple[float, str]:
    """By what a budget's numbers are multiplied to be shown, and their unit."""
    if budget == "max_disagreement":
        return 100, " %"
    return 1, " %" if budget.startswith("max_loss") else ""


def budget_name(budget: str) -> str:
    """A budget for people."""
    return _NAMES.get(budget) or budget.removeprefix("max_").replace("_", " ")


def judged(verdict: VerdictRecord) -> Judged:
    """A verdict with as many digits as it takes to show on which side of its limit it is."""
    scale, unit = scale_of(verdict.budget)
    value = None if verdict.value is None else verdict.value * scale
    limit = None if verdict.limit is None else verdict.limit * scale
    shown, bound = _texts(value, limit, unit)
    if verdict.value_infinite:
        shown = "∞" + unit
    top = 100.0 if unit else max(limit or 0, value or 0) * 1.25
    full = None if limit is None else 100.0 if verdict.value_infinite else value
    return Judged(
        name=budget_name(verdict.budget),
        value=shown,
        reason=verdict.value_reason,
        limit=bound,
        interval=span(verdict.interval, scale),
        record=verdict,
        fill=None if full is None or not top else min(max(100 * full / top, 0), 100),
        mark=min(max(100 * (limit or 0) / top, 0), 100) if top else 0,
    )


def _texts(value: float | None, limit: float | None, unit: str) -> tuple[str | None, str]:
    """The value and its limit, told apart."""
    if limit is None:
        return None if value is None else number_text(value) + unit, "not known"
    if value is None:
        return None, number_text(limit) + unit
    shown, bound = distinct(value, limit)
    return shown + unit, bound + unit
