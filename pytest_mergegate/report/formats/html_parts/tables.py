"""Numbers with their units, and words where there is no number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.common import wording
from pytest_mergegate.common.wording import distinct, number_text
from pytest_mergegate.report.formats.numbers import (
    NOT_RUN,
    Estimate,
    disagreement_of,
    forecasts_of,
    loss_of,
    mds_of,
    number_beside,
    score_text,
    span,
)
from pytest_mergegate.report.formats.reading import QUANTITIES, merge_of

if TYPE_CHECKING:
    from pytest_mergegate.report.types import (
        ChangeRecord,
        ExpertRecord,
        MergedExpertRecord,
        Report,
        VerdictRecord,
    )

_NAMES = {
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
    return _NAMES.get(budget) or wording.budget_name(budget)


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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value of the table of experts."""

    text: str | None
    """None where there is no number."""
    reason: str | None = None
    """Why there is none."""
    notes: tuple[str | None, ...] = ()
    """An interval, a bound: what stands below the value."""
    status: str | None = None
    """Of the verdict on this value."""


def cells_of(report: Report, expert: ExpertRecord) -> tuple[Cell, ...]:
    """Disagreement, loss, score and MDS of one expert."""
    verdicts = {v.budget: v for v in report.verdicts if v.expert == expert.name}
    merge = merge_of(report)
    found = next((e for e in merge.experts if e.name == expert.name), None) if merge else None
    forecasts = forecasts_of(report, "surrogate", report.judged_method)
    forecast = forecasts.get(expert.name) if found is None else None
    differs = forecast or disagreement_of(found)
    bound = None if differs.upper is None else f"at most {100 * differs.upper:.1f} %"
    notes = (bound, "forecast, no merge made" if forecast else None)
    return (
        _cell("max_disagreement", verdicts, differs, notes),
        _loss_cell(found, verdicts),
        _score_cell(found),
        _cell("max_mds", verdicts, mds_of(expert), decimals=2),
    )


def _cell(
    budget: str,
    verdicts: dict[str, VerdictRecord],
    estimate: Estimate,
    notes: tuple[str | None, ...] = (),
    *,
    decimals: int = 1,
) -> Cell:
    """An estimate with more digits where rounding would put it on its limit."""
    verdict = verdicts.get(budget)
    status = verdict.status if verdict else None
    if estimate.value is None:
        return Cell(text=None, reason=estimate.reason, status=status)
    scale, unit = scale_of(budget)
    limit = None if verdict is None or verdict.limit is None else verdict.limit * scale
    text = "∞"
    if estimate.value != math.inf:
        text = number_beside(estimate.value * scale, limit, decimals, apart=True) + unit
    notes = (span(estimate.interval, scale, decimals), *notes)
    return Cell(text=text, notes=notes, status=status)


def _loss_cell(merged: MergedExpertRecord | None, verdicts: dict[str, VerdictRecord]) -> Cell:
    verdict = verdicts.get("max_loss")
    if verdict is None or (merged is not None and merged.loss is not None):
        return _cell("max_loss", verdicts, loss_of(merged))
    reason = (merged and merged.loss_reason) or verdict.value_reason or NOT_RUN
    certified = Estimate(value=verdict.value, reason=reason)  # without targets
    return _cell("max_loss", verdicts, certified, (f"{verdict.basis}, not measured",))


def _score_cell(merged: MergedExpertRecord | None) -> Cell:
    text = score_text(merged)
    if merged is None or text is None:
        return Cell(text=None, reason=(merged and merged.score_merged_reason) or NOT_RUN)
    base = None if merged.score_base is None else f"base {merged.score_base:.2f}"
    return Cell(text=text, notes=(base,))


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
