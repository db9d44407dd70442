"""Numbers with their units, and words where there is no number."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_mergegate.common.wording import distinct, number_text
from pytest_mergegate.report.formats.numbers import (
    NOT_RUN,
    Estimate,
    disagreement_of,
    forecasts_of,
    loss_of,
    mds_of,
    number_beside,
    span,
)
from pytest_mergegate.report.formats.reading import QUANTITIES, merge_of
from pytest_mergegate.verdict.budgets import kind_of, limit_on

if TYPE_CHECKING:
    from pytest_mergegate.report.types import (
        ChangeRecord,
        ExpertRecord,
        MergedExpertRecord,
        Report,
        VerdictRecord,
    )

MDS, DISAGREEMENT, LOSS = map(limit_on, ("mds", "disagreement", "loss"))


def scale_of(budget: str) -> tuple[float, str]:
    """By what a budget's numbers are multiplied to be shown, and their unit."""
    return kind_of(budget).shown


def budget_name(budget: str) -> str:
    """A budget for people."""
    kind = kind_of(budget)
    return kind.title or kind.words


def missing(reason: str | None) -> str:
    """What is said in place of a number."""
    return f"not computed: {reason or 'no reason given'}"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict in words, with the unit of its budget."""

    name: str
    value: str | None
    reason: str | None
    """Why there is no value."""
    limit: str
    interval: str | None
    record: VerdictRecord
    fill: float | None
    """How far along its bar the value is; None without one."""
    mark: float
    """Where on the bar the limit is."""


def judged(verdict: VerdictRecord) -> Judged:
    """A verdict with as many digits as it takes to show on which side of its limit it is."""
    scale, unit = scale_of(verdict.budget)
    value = None if verdict.value is None else verdict.value * scale
    limit = None if verdict.limit is None else verdict.limit * scale
    shown, bound = _texts(value, limit)
    if verdict.value_infinite:
        shown = "∞"
    top = 100.0 if unit else max(limit or 0, value or 0) * 1.25
    full = None if limit is None else 100.0 if verdict.value_infinite else value
    return Judged(
        name=budget_name(verdict.budget),
        value=None if shown is None else shown + unit,
        reason=verdict.value_reason,
        limit="not known" if bound is None else bound + unit,
        interval=span(verdict.interval, scale),
        record=verdict,
        fill=None if full is None or not top else min(max(100 * full / top, 0), 100),
        mark=min(max(100 * (limit or 0) / top, 0), 100) if top else 0,
    )


def _texts(a: float | None, b: float | None) -> tuple[str | None, str | None]:
    """Two numbers told apart, as far as they are there."""
    if a is not None and b is not None:
        return distinct(a, b)
    return None if a is None else number_text(a), None if b is None else number_text(b)


def merged_of(report: Report, expert: ExpertRecord) -> MergedExpertRecord | None:
    """What the judged merge does to an expert."""
    merge = merge_of(report)
    return next((e for e in merge.experts if e.name == expert.name), None) if merge else None


def estimates_of(report: Report, expert: ExpertRecord) -> dict[str, Estimate]:
    """What is told of one expert, by the budget that it is judged against."""
    merged = merged_of(report, expert)
    differs, lost = disagreement_of(merged), loss_of(merged)
    forecast = forecasts_of(report, "surrogate", report.judged_method).get(expert.name)
    if merged is None and forecast is not None:
        differs = replace(forecast, note="forecast, no merge made")
    verdict = verdicts_of(report, expert).get(LOSS)
    if lost.value is None and verdict is not None:  # certified, without targets
        reason = (merged and merged.loss_reason) or verdict.value_reason or NOT_RUN
        note = f"{verdict.basis}, not measured"
        lost = Estimate(value=verdict.value, reason=reason, note=note)
    return {DISAGREEMENT: differs, LOSS: lost, MDS: mds_of(expert)}


def verdicts_of(report: Report, expert: ExpertRecord) -> dict[str, VerdictRecord]:
    """By budget."""
    return {v.budget: v for v in report.verdicts if v.expert == expert.name}


def estimate_text(
    budget: str, estimate: Estimate, verdict: VerdictRecord | None, decimals: int
) -> str | None:
    """A number with more digits where rounding would put it on its limit."""
    if estimate.value is None:
        return None
    if math.isinf(estimate.value):
        return "∞"
    scale, unit = scale_of(budget)
    limit = None if verdict is None or verdict.limit is None else verdict.limit * scale
    return number_beside(estimate.value * scale, limit, decimals, apart=True) + unit


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One number at the baseline and now; None where there was none."""

    about: str
    quantity: str
    before: str | None
    after: str | None
    change: str | None


_OF = {"hidden_similarity": ", 0 to 1", "distance": " of hidden states"}


def moved(record: ChangeRecord) -> Moved:
    """``record`` for people, with as many digits as it takes to show that it moved."""
    budget = f"max_{record.quantity}"
    scale, unit = scale_of(budget)
    scale *= QUANTITIES[record.quantity].sign
    before, after = (None if n is None else n * scale + 0.0 for n in (record.before, record.after))
    texts = _texts(before, after)
    change = None
    if before is not None and after is not None:
        points = " percentage points" if unit else ""
        change = f"{'+' if after > before else ''}{number_text(after - before)}{points}"
    about = f"{record.expert} – {record.other}" if record.other else record.expert
    return Moved(
        about=f"{about} under {record.method}" if record.method else about,
        quantity=budget_name(budget) + _OF.get(record.quantity, ""),
        before=texts[0] and texts[0] + unit,
        after=texts[1] and texts[1] + unit,
        change=change,
    )
