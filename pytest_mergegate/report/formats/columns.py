"""The table of experts, column by column, for every format that shows one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.report.formats.reading import merge_of, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.report.pool_records import ExpertRecord
    from pytest_mergegate.report.types import MergedExpertRecord, MergeRecord, Report

NONE = "-"
_OWN = {"max_mds", "max_disagreement", "max_loss"}
"""Budgets whose values have columns of their own."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: what, in which unit and against which limit, and a cell per expert."""

    title: str
    unit: str = ""
    limit: str = ""
    cells: dict[str, str]

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return set(self.cells.values()) <= {NONE}


def columns(
    report: Report, merge: MergeRecord | None = None, *, detailed: bool = False
) -> list[Column]:
    """What was computed of every expert, as deep as the gate went; the last is the verdict.

    Of the judged merge unless another is given; in detail, the forecasts stand beside it.
    """
    shown = merge or merge_of(report)
    judged = shown is merge_of(report)
    found = [_mds(report, detailed=detailed), *_ratios(report)] if judged else []
    if detailed or shown is None:
        predicted = list(_forecasts(report, shown.method if shown else report.judged_method))
        # stored states cry wolf: who did not ask for everything sees them where all else is lacking
        found += predicted if detailed or predicted[-1].empty else predicted[-1:]
    if shown is not None:
        found += _merged(report, shown, detailed=detailed)
    found = [column for column in found if not column.empty]
    if judged:
        statuses = {name: status_of(report, name) for name in report.expert_names}
        found.append(Column(title="verdict", cells=statuses))
    return found


def number_beside(value: float, limit: float | None, digits: int = 2) -> str:
    """A number with the digits it takes to stand on its own side of the limit."""
    value += 0.0
    while limit is not None and digits < 16:
        if (float(f"{value:.{digits}f}") <= limit) == (value <= limit):
            break
        digits += 1
    return f"{value:.{digits}f}"


def _limit(report: Report, budget: str) -> float | None:
    return next((v.limit for v in report.verdicts if v.budget == budget), None)


def _limit_text(report: Report, budget: str) -> str:
    limit = _limit(report, budget)
    return "" if limit is None else f"≤ {limit:g}"


def _mds(report: Report, *, detailed: bool) -> Column:
    limit = _limit(report, "max_mds")

    def cell(expert: ExpertRecord) -> str:
        if expert.mds_infinite:
            return "∞"
        if expert.mds is None:
            return NONE
        shown = number_beside(expert.mds, limit)
        return shown + (_interval(expert.mds_interval, 1.0) if detailed else "")

    cells = {expert.name: cell(expert) for expert in report.experts}
    return Column(title="MDS", limit=_limit_text(report, "max_mds"), cells=cells)


def _interval(ends: tuple[float | None, float | None] | None, sign: float) -> str:
    if ends is None:
        return ""
    low, high = ends if sign > 0 else ends[::-1]
    shown = ("∞" if end is None else f"{sign * end + 0.0:.3g}" for end in (low, high))
    return f" [{', '.join(shown)}]"


def _ratios(report: Report) -> Iterator[Column]:
    """Budgets without a column of their own, by what was judged."""
    for budget in dict.fromkeys(v.budget for v in report.verdicts):
        if budget in _OWN:
            continue
        cells = dict.fromkeys(report.expert_names, NONE)
        for verdict in report.verdicts:
            if verdict.budget == budget and verdict.expert in cells:
                known = "∞" if verdict.value_infinite else NONE
                cells[verdict.expert] = (
                    known if verdict.value is None else number_beside(verdict.value, verdict.limit)
                )
        name = budget.removeprefix("max_").replace("_", " ").replace("mds", "MDS")
        unit = "%" if "loss" in budget else ""
        yield Column(title=name, unit=unit, limit=_limit_text(report, budget), cells=cells)


def _forecasts(report: Report, method: str | None) -> Iterator[Column]:
    limit = _limit(report, "max_disagreement")
    for kind, by in (("states", "from states"), ("surrogate", "by surrogate")):
        cells = dict.fromkeys(report.expert_names, NONE)
        for found in report.forecasts:
            if (found.kind, found.method) == (kind, method) and found.disagreement is not None:
                cells[found.expert] = number_beside(found.disagreement, limit)
        shown = _limit_text(report, "max_disagreement") if kind == "surrogate" else ""
        yield Column(title="predicted disagreement", unit=by, limit=shown, cells=cells)


def _merged(report: Report, merge: MergeRecord, *, detailed: bool) -> Iterator[Column]:
    merged = {expert.name: expert for expert in merge.experts}
    rows = {name: merged.get(name) for name in report.expert_names}
    most = _limit(report, "max_disagreement")
    limit = _limit(report, "max_loss")
    told = _limit_text(report, "max_disagreement")
    differs = {n: _disagreement(e, most) for n, e in rows.items()}
    yield Column(title="disagreement", unit="(bound)", limit=told, cells=differs)
    lost = {n: _loss(e, limit, detailed=detailed) for n, e in rows.items()}
    told = _limit_text(report, "max_loss")
    yield Column(title="loss", unit="%", limit=told, cells=lost)
    if all(cell == NONE for cell in lost.values()) and limit is not None:
        certified = dict.fromkeys(report.expert_names, NONE)
        for found in report.predictions:
            certificate = found.source == "certificate" and found.method == merge.method
            if certificate and found.loss is not None:
                certified[found.expert] = number_beside(0.0 - found.loss, limit, 1)
        yield Column(title="certified loss", unit="%, at most", limit=told, cells=certified)
        yield from _predicted(report, merge.method, told, limit)
    scores = {n: _score(e) for n, e in rows.items()}
    yield Column(title="score", unit="alone → merged", cells=scores)


def _predicted(report: Report, method: str, told: str, limit: float) -> Iterator[Column]:
    """The losses that were judged, where past merges foretold them."""
    judged = {
        verdict.expert: verdict.value
        for verdict in report.verdicts
        if (verdict.budget, verdict.basis, verdict.method) == ("max_loss", "predicted", method)
    }
    if not judged:
        return
    cells = dict.fromkeys(report.expert_names, NONE)
    for expert, value in judged.items():
        if expert is not None and value is not None:
            cells[expert] = number_beside(value, limit, 1)
    yield Column(title="predicted loss", unit="%", limit=told, cells=cells)


def _disagreement(expert: MergedExpertRecord | None, limit: float | None) -> str:
    if expert is None:
        return NONE
    shown = number_beside(expert.disagreement, limit)
    return f"{shown} (≤{expert.disagreement_upper:.2f})"


def _loss(expert: MergedExpertRecord | None, limit: float | None, *, detailed: bool) -> str:
    if expert is None or expert.loss is None:
        return NONE
    shown = number_beside(0.0 - expert.loss, limit, 1)
    return shown + (_interval(expert.loss_interval, -1.0) if detailed else "")


def _score(expert: MergedExpertRecord | None) -> str:
    if expert is None or expert.score_expert is None or expert.score_merged is None:
        return NONE
    return f"{expert.score_expert:.2f} → {expert.score_merged:.2f}"
