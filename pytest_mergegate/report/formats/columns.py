"""The table of experts, column by column, for the formats that are plain text."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pytest_mergegate.report.formats.numbers import (
    Estimate,
    disagreement_of,
    forecasts_of,
    loss_of,
    mds_of,
    mean_by_layer,
    number_beside,
    score_text,
    span,
)
from pytest_mergegate.report.formats.reading import limit_of, merge_of, status_of
from pytest_mergegate.verdict.budgets import kind_of, limit_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_mergegate.report.types import MergeRecord, Report

NONE = "-"
_MDS, _DISAGREEMENT, _LOSS = map(limit_on, ("mds", "disagreement", "loss"))
_OWN = {_MDS, _DISAGREEMENT, _LOSS}
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
    beside: _Beside = "interval" if detailed else "nothing"
    found = []
    if judged:
        of_each = {expert.name: mds_of(expert) for expert in report.experts}
        found = [_column(report, "MDS", "", _MDS, of_each, beside=beside), *_ratios(report)]
    if detailed or shown is None:
        predicted = list(_forecasts(report, shown.method if shown else report.judged_method))
        # stored states cry wolf: who did not ask for everything sees them where all else is lacking
        found += predicted if detailed or predicted[-1].empty else predicted[-1:]
    if shown is not None:
        found += _merged(report, shown, beside)
    found = [column for column in found if not column.empty]
    if judged:
        statuses = {name: status_of(report, name) or NONE for name in report.expert_names}
        found.append(Column(title="verdict", cells=statuses))
    return found


_Beside = Literal["nothing", "interval", "bound"]


def _column(
    report: Report,
    title: str,
    unit: str,
    budget: str,
    estimates: Mapping[str, Estimate],
    *,
    digits: int = 2,
    beside: _Beside = "nothing",
) -> Column:
    """One of numbers, with the digits it takes to tell them from the budget's limit."""
    limit = limit_of(report, budget)

    def cell(estimate: Estimate) -> str:
        if estimate.value is None:
            return NONE
        if math.isinf(estimate.value):
            return "∞"
        text = number_beside(estimate.value, limit, digits)
        if beside == "bound":
            return f"{text} (≤{estimate.upper:.2f})"
        ends = span(estimate.interval) if beside == "interval" else None
        return f"{text} {ends}" if ends else text

    cells = {name: cell(estimates.get(name, Estimate())) for name in report.expert_names}
    shown = "" if limit is None else f"≤ {limit:g}"
    return Column(title=title, unit=unit, limit=shown, cells=cells)


def _ratios(report: Report) -> Iterator[Column]:
    """Budgets without a column of their own, by what was judged."""
    for budget in dict.fromkeys(v.budget for v in report.verdicts if v.budget not in _OWN):
        values = {
            v.expert: Estimate(value=math.inf if v.value_infinite else v.value)
            for v in report.verdicts
            if v.budget == budget and v.expert is not None
        }
        kind = kind_of(budget)
        yield _column(report, kind.words, kind.column_unit, budget, values)


def _forecasts(report: Report, method: str | None) -> Iterator[Column]:
    for kind, by in (("states", "from states"), ("surrogate", "by surrogate")):
        found = forecasts_of(report, kind, method)
        column = _column(report, "predicted disagreement", by, _DISAGREEMENT, found)
        yield column if kind == "surrogate" else replace(column, limit="")


def _merged(report: Report, merge: MergeRecord, beside: _Beside) -> Iterator[Column]:
    merged = {expert.name: expert for expert in merge.experts}
    differs = {name: disagreement_of(expert) for name, expert in merged.items()}
    yield _column(report, "disagreement", "(bound)", _DISAGREEMENT, differs, beside="bound")
    lost = {name: loss_of(expert) for name, expert in merged.items()}
    measured = _column(report, "loss", "%", _LOSS, lost, digits=1, beside=beside)
    yield measured
    if measured.empty and limit_of(report, _LOSS) is not None:
        yield from _unmeasured(report, merge.method)
    scores = {name: score_text(merged.get(name)) or NONE for name in report.expert_names}
    yield Column(title="score", unit="alone → merged", cells=scores)


def _unmeasured(report: Report, method: str) -> Iterator[Column]:
    """The losses that are certified, and those that past merges foretold and that were judged."""
    certified = {
        found.expert: Estimate(value=0.0 - found.loss)
        for found in report.predictions
        if (found.source, found.method) == ("certificate", method) and found.loss is not None
    }
    yield _column(report, "certified loss", "%, at most", _LOSS, certified, digits=1)
    foretold = {
        verdict.expert: Estimate(value=verdict.value)
        for verdict in report.verdicts
        if (verdict.budget, verdict.basis, verdict.method) == (_LOSS, "predicted", method)
        and verdict.expert is not None
    }
    yield _column(report, "predicted loss", "%", _LOSS, foretold, digits=1)


def layer_columns(report: Report) -> list[Column]:
    """The conflict in every layer, as means over the pairs; cells by the name of the layer."""
    layers = report.conflicts.layers if report.conflicts else ()
    columns = []
    for ratio in ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio"):
        means = mean_by_layer(ratio, report)
        cells = (NONE if mean is None else f"{mean:.3f}" for mean in means)
        found = dict(zip(layers, cells, strict=True))
        columns.append(Column(title=ratio.replace("_", " "), cells=found))
    return columns
