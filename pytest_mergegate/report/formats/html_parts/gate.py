"""One gate of the page: what its sections say, in their order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.report.formats.html_parts.charts import charts
from pytest_mergegate.report.formats.html_parts.figures import Judged, judged
from pytest_mergegate.report.formats.html_parts.tables import ExpertRow, expert_rows

if TYPE_CHECKING:
    from pytest_mergegate.report.formats.html_parts.plots import Chart
    from pytest_mergegate.report.types import DiagnosisRecord, FindingRecord, Report


@dataclass(frozen=True, kw_only=True)
class Concern:
    """An expert that is not within budget, why, and what would help."""

    expert: str
    verdicts: tuple[Judged, ...]
    diagnosis: DiagnosisRecord | None


@dataclass(frozen=True, kw_only=True)
class GateView:
    """What the templates are given of one gate."""

    key: str
    """Begins every id of its part of the page."""
    name: str
    report: Report
    headline: str
    concerns: tuple[Concern, ...]
    problems: tuple[FindingRecord, ...]
    """Why nothing was judged, of a gate in error."""
    closest: Judged | None
    """Of a gate that passed, the value that uses up most of its limit."""
    rows: tuple[ExpertRow, ...]
    verdicts: tuple[Judged, ...]
    limits: dict[str, Judged]
    charts: dict[str, Chart]
    settings: str


def gate_view(report: Report, name: str, key: str) -> GateView:
    """All that is said of ``report``."""
    verdicts = tuple(judged(verdict) for verdict in report.verdicts)
    errors = tuple(f for f in report.findings if f.severity == "error")
    return GateView(
        key=key,
        name=name,
        report=report,
        headline=headline(report),
        concerns=_concerns(report, verdicts),
        problems=errors if report.status == "error" else (),
        closest=max(verdicts, key=_use, default=None) if report.status == "pass" else None,
        rows=expert_rows(report),
        verdicts=verdicts,
        limits={verdict.record.budget: verdict for verdict in reversed(verdicts)},
        charts=charts(report, key),
        settings=json.dumps(report.settings, indent=2, ensure_ascii=False),
    )


def headline(report: Report) -> str:
    """The verdict in one sentence."""
    under = f" under {report.judged_method}" if report.judged_method else ""
    total = len(report.experts)
    if report.status == "error":
        count = sum(finding.severity == "error" for finding in report.findings)
        return f"{count} problem{'s' * (count != 1)}: nothing was judged"
    if not report.verdicts:
        return "No budget was judged, and a gate without a verdict does not pass"
    failing = {v.expert for v in report.verdicts if v.status == "fail"}
    undecided = {v.expert for v in report.verdicts if v.status == "inconclusive"} - failing
    said = [f"{len(failing)} of {total} experts over budget"] if failing else []
    said += [f"{len(undecided)} of {total} undecided"] if undecided else []
    return (", ".join(said) or f"All {total} experts within budget") + under


def _concerns(report: Report, verdicts: tuple[Judged, ...]) -> tuple[Concern, ...]:
    """Experts over budget first, then the undecided, each in the gate's order."""
    open_verdicts = [v for v in verdicts if v.record.status != "pass"]
    diagnoses = {diagnosis.expert: diagnosis for diagnosis in report.diagnoses}
    names = dict.fromkeys(v.record.expert for v in open_verdicts)
    found = [
        Concern(
            expert=name or "the pool",
            verdicts=tuple(v for v in open_verdicts if v.record.expert == name),
            diagnosis=diagnoses.get(name or ""),
        )
        for name in names
    ]
    return tuple(sorted(found, key=lambda c: all(v.record.status != "fail" for v in c.verdicts)))


def _use(verdict: Judged) -> float:
    value = verdict.record.value or 0.0
    return value / verdict.record.limit if verdict.record.limit else value
