"""Numbers with their units, and words where there is no number."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_mergegate.common.records import NOT_RUN, value_of
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import distinct, number_text, under
from pytest_mergegate.report.formats.numbers import (
    DISAGREEMENT,
    GAIN,
    LOSS,
    MDS,
    finite_ends,
    forecasts_of,
    loss_of,
    number_beside,
    score_text,
    span,
)
from pytest_mergegate.report.formats.reading import QUANTITIES, merge_of
from pytest_mergegate.report.pool_records import ExpertRecord
from pytest_mergegate.report.types import ChangeRecord, Report, VerdictRecord
from pytest_mergegate.verdict.budgets import kind_of, limit_on

if TYPE_CHECKING:
    from pytest_mergegate.report.merge_records import ForecastRecord, MergedExpertRecord


def missing(reason: str | None) -> str:
    """What is said in place of a number."""
    return f"not computed: {reason or 'no reason given'}"


def damage_text(value: Value) -> str:
    """For the table of what merges do."""
    if value.number is None:
        return missing(value.reason)
    ends = finite_ends(value)
    return f"{value.number + 0.0:.1f} %{f' {span(ends, decimals=1)}' if ends else ''}"


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
    kind = kind_of(verdict.budget)
    scale, unit = kind.shown
    value = None if verdict.value is None else verdict.value * scale
    limit = None if verdict.limit is None else verdict.limit * scale
    shown, bound = _texts(value, limit)
    if verdict.value_infinite:
        shown = "∞"
    top = 100.0 if unit else max(kind.best, limit or 0, value or 0) * 1.25
    full = None if limit is None else 100.0 if verdict.value_infinite else value
    return Judged(
        name=kind.title or kind.words,
        value=None if shown is None else shown + unit,
        reason=verdict.value_reason,
        limit="not known" if bound is None else f"{'at least ' * kind.at_least}{bound}{unit}",
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


class Cell(NamedTuple):
    """A number of one expert in the table of experts."""

    text: str | None
    """None where there is no number."""
    reason: str | None
    """Why there is none."""
    notes: tuple[str | None, ...]
    status: str | None = None
    """Of the verdict on it."""


def expert_cells(report: Report, expert: ExpertRecord) -> list[Cell]:
    """What is told of one expert: its disagreement, loss, gain kept, scores and MDS."""
    merge = merge_of(report)
    merged = next((e for e in merge.experts if e.name == expert.name), None) if merge else None
    verdicts = {v.budget: v for v in report.verdicts if v.expert == expert.name}

    def cell(budget: str, value: Value, upper: float | None, note: str, decimals: int) -> Cell:
        """A number with more digits where rounding would put it on its limit."""
        verdict = verdicts.get(budget)
        scale, unit = kind_of(budget).shown
        text = None
        if value.number is not None:
            limit = None if verdict is None or verdict.limit is None else verdict.limit * scale
            text = number_beside(value.number * scale, limit, decimals, apart=True) + unit
        interval = span(value.interval, scale, decimals)
        if interval is None and upper is not None:
            interval = f"at most {100 * upper:.1f} %"
        beside = (interval, note)
        return Cell(text, value.reason, beside, verdict.status if verdict else None)

    shown: MergedExpertRecord | ForecastRecord | None = merged
    if merged is None:
        shown = forecasts_of(report, "surrogate", report.judged_method).get(expert.name)
    forecast = "forecast, no merge made" if shown is not merged else ""
    lost, verdict = loss_of(merged), verdicts.get(LOSS)
    instead = ""
    if lost.number is None and verdict is not None:  # certified, without targets
        reason = (merged and merged.loss_reason) or verdict.value_reason or NOT_RUN
        lost = Value.missing(reason) if verdict.value is None else Value(number=verdict.value)
        instead = f"{verdict.basis}, not measured"
    upper = shown.disagreement_upper if shown else None
    base = merged.score_base if merged else None
    return [
        cell(DISAGREEMENT, value_of(shown, "disagreement"), upper, forecast, 1),
        cell(LOSS, lost, None, instead, 1),
        cell(GAIN, value_of(merged, "gain_kept"), None, "", 2),
        Cell(
            score_text(merged),
            (merged and merged.score_merged_reason) or NOT_RUN,
            (None if base is None else f"base {base:.2f}",),
        ),
        cell(MDS, value_of(expert, "mds"), None, "", 2),
    ]


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
    kind = kind_of(limit_on(record.quantity))
    scale, unit = kind.shown
    scale *= QUANTITIES[record.quantity].sign
    before, after = (None if n is None else n * scale + 0.0 for n in (record.before, record.after))
    texts = _texts(before, after)
    change = None
    if before is not None and after is not None:
        points = " percentage points" if unit else ""
        change = f"{'+' if after > before else ''}{number_text(after - before)}{points}"
    about = f"{record.expert} – {record.other}" if record.other else record.expert
    return Moved(
        about=f"{about} {under(record.method)}" if record.method else about,
        quantity=(kind.title or kind.words) + _OF.get(record.quantity, ""),
        before=texts[0] and texts[0] + unit,
        after=texts[1] and texts[1] + unit,
        change=change,
    )
