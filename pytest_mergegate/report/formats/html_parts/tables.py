"""The table of experts: what was computed of each, and what was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.report.formats.html_parts.figures import Cell, judged, scale_of, span

if TYPE_CHECKING:
    from pytest_mergegate.report.pool_records import ExpertRecord
    from pytest_mergegate.report.types import MergedExpertRecord, MergeRecord, Report, VerdictRecord

NOT_RUN = "stage_not_run"
_ORDER = ("fail", "inconclusive", "pass")


@dataclass(frozen=True, kw_only=True)
class ExpertRow:
    """One expert."""

    name: str
    kind: str
    status: str | None
    mds: Cell
    disagreement: Cell
    loss: Cell
    score: Cell


def shown_merge(report: Report) -> MergeRecord | None:
    """The judged merge, else the first."""
    judged_merge = (m for m in report.merges if m.method == report.judged_method)
    return next(judged_merge, report.merges[0] if report.merges else None)


def expert_rows(report: Report) -> tuple[ExpertRow, ...]:
    """Every expert, in the gate's order."""
    merge = shown_merge(report)
    merged = {expert.name: expert for expert in merge.experts} if merge else {}
    return tuple(_row(report, expert, merged.get(expert.name)) for expert in report.experts)


def _row(report: Report, expert: ExpertRecord, merged: MergedExpertRecord | None) -> ExpertRow:
    verdicts = {v.budget: v for v in report.verdicts if v.expert == expert.name}
    statuses = {verdict.status for verdict in verdicts.values()}
    return ExpertRow(
        name=expert.name,
        kind=expert.kind,
        status=next((status for status in _ORDER if status in statuses), None),
        mds=_mds(expert, verdicts.get("max_mds")),
        disagreement=_disagreement(report, expert, merged, verdicts.get("max_disagreement")),
        loss=_loss(merged, verdicts.get("max_loss")),
        score=_score(merged),
    )


def _mds(expert: ExpertRecord, verdict: VerdictRecord | None) -> Cell:
    text = "∞" if expert.mds_infinite else None if expert.mds is None else f"{expert.mds:.2f}"
    interval = span(expert.mds_interval, decimals=2)
    return Cell(
        text=_digits(text, verdict),
        reason=expert.mds_reason or NOT_RUN,
        notes=(interval,) if interval else (),
        status=_state(verdict),
    )


def _disagreement(
    report: Report,
    expert: ExpertRecord,
    merged: MergedExpertRecord | None,
    verdict: VerdictRecord | None,
) -> Cell:
    status = _state(verdict)
    if merged is not None:
        notes = (
            span(merged.disagreement_interval, 100, decimals=1),
            _at_most(merged.disagreement_upper),
        )
        text = _digits(f"{100 * merged.disagreement:.1f} %", verdict)
        return Cell(text=text, notes=tuple(filter(None, notes)), status=status)
    own = (
        f
        for f in report.forecasts
        if (f.kind, f.expert, f.method) == ("surrogate", expert.name, report.judged_method)
    )
    forecast = next(own, None)
    if forecast is None or forecast.disagreement is None:
        reason = (forecast and forecast.disagreement_reason) or NOT_RUN
        return Cell(text=None, reason=reason, status=status)
    said = (
        span(forecast.disagreement_interval, 100, decimals=1),
        _at_most(forecast.disagreement_upper),
        "forecast, no merge made",
    )
    text = _digits(f"{100 * forecast.disagreement:.1f} %", verdict)
    return Cell(text=text, notes=tuple(filter(None, said)), status=status)


def _loss(merged: MergedExpertRecord | None, verdict: VerdictRecord | None) -> Cell:
    """Positive where the merge is worse, as the budget has it."""
    if merged is not None and merged.loss is not None:
        text = _digits(f"{0.0 - merged.loss:.1f} %", verdict)
        interval = span(merged.loss_interval, -1, decimals=1)
        notes = (interval,) if interval else ()
        return Cell(text=text, notes=notes, status=_state(verdict))
    if verdict is not None and verdict.value is not None:  # certified, without targets
        text = _digits(f"{verdict.value:.1f} %", verdict)
        return Cell(text=text, notes=(f"{verdict.basis}, not measured",), status=verdict.status)
    reason = (merged and merged.loss_reason) or (verdict and verdict.value_reason) or NOT_RUN
    return Cell(text=None, reason=reason, status=_state(verdict))


def _score(merged: MergedExpertRecord | None) -> Cell:
    if merged is None or merged.score_merged is None or merged.score_expert is None:
        return Cell(text=None, reason=(merged and merged.score_merged_reason) or NOT_RUN)
    base = () if merged.score_base is None else (f"base {merged.score_base:.2f}",)
    return Cell(text=f"{merged.score_expert:.2f} → {merged.score_merged:.2f}", notes=base)


def _state(verdict: VerdictRecord | None) -> str | None:
    return None if verdict is None else verdict.status


def _at_most(bound: float | None) -> str | None:
    return None if bound is None else f"at most {100 * bound:.1f} %"


def _digits(text: str | None, verdict: VerdictRecord | None) -> str | None:
    """``text``, or more digits where rounding would put the judged value on its limit."""
    if text in (None, "∞") or verdict is None or verdict.value in (None, verdict.limit):
        return text
    if verdict.limit is None:
        return text
    scale, unit = scale_of(verdict.budget)
    rounded = float(text.removesuffix(unit))
    is_judged = abs(verdict.value * scale - rounded) < 0.06  # not its interval's bad end
    return judged(verdict).value if is_judged and rounded == verdict.limit * scale else text
