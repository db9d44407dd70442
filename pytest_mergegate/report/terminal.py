"""Reports for people at a terminal: failure text, one-line summaries and the table."""

from __future__ import annotations

import shutil
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_mergegate.report.types import (
        ExpertRecord,
        FindingRecord,
        ForecastRecord,
        MergedExpertRecord,
        Report,
        VerdictRecord,
    )

_COLORS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "error": "red"}
_WIDEST = 120


def failure_text(report: Report, expert: str | None) -> str:
    """What to say of a gate that did not pass; of one expert, or, for None, of the pool."""
    if report.status == "error":
        problems = [f for f in report.findings if f.severity == "error"]
        concerned = [f for f in problems if expert in (None, f.expert)] or problems
        return "\n".join(_finding(finding) for finding in concerned)
    open_verdicts = [v for v in report.verdicts if v.status != "pass"]
    if expert is not None:
        lines = [v.message for v in open_verdicts if v.expert == expert]
        said = [line for d in report.diagnoses if d.expert == expert for line in d.lines]
        return "\n".join([*lines, *(f"  {line}" for line in said)])
    if not open_verdicts:
        return "no budget was judged, and a gate without a verdict does not pass"
    return "\n".join(_pool_lines(report, open_verdicts))


def summary(reports: Sequence[Report], *, verbosity: int, color: bool) -> str:
    """One line per gate; a table where a gate did not pass, or for ``-v``."""
    if not reports or (verbosity < 0 and all(report.status == "pass" for report in reports)):
        return ""
    console = _console(color)
    for report in reports:
        line = Text(f"{report.status.upper()} ", style=_COLORS[report.status])
        explained = verbosity > 0 or report.status == "error"
        told = _headline(report) + ("" if explained else _warnings(report))
        console.print(line.append(told, style="default"), soft_wrap=True)
        if report.experts and verbosity >= 0 and (verbosity > 0 or report.status != "pass"):
            console.print(table(report))
        if explained:
            for finding in report.findings:
                if finding.code != "MG401":  # the failure text has said it
                    console.print(f"  {_finding(finding)}", soft_wrap=True, highlight=False)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def preflight_summary(reports: Sequence[Report], *, verbosity: int, color: bool) -> str:
    """What preflight alone found: a line per gate, and every warning; budgets stay unjudged."""
    if verbosity < 0:
        return ""
    console = _console(color)
    for report in reports:
        budgets = ", ".join(dict.fromkeys(verdict.budget for verdict in report.verdicts))
        line = Text("PREFLIGHT ", style="green").append(
            f"{report.gate}: {len(report.experts)} experts, nothing wrong; not judged: {budgets} "
            f"({sum(report.seconds.values()):.1f} s)",
            style="default",
        )
        console.print(line, soft_wrap=True)
        for found in report.findings:
            console.print(f"  {_finding(found)}", soft_wrap=True, highlight=False)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def table(report: Report) -> Table:
    """One row per expert: what was computed, as deep as the gate went."""
    merge = next((m for m in report.merges if m.method == report.judged_method), None)
    merge = merge or (report.merges[0] if report.merges else None)
    merged = {expert.name: expert for expert in merge.experts} if merge else {}
    title = merge.method if merge else report.judged_method
    predicted = {
        f.expert: f for f in report.forecasts if (f.kind, f.method) == ("surrogate", title)
    }
    rows = Table(title=title, title_justify="left", box=None, pad_edge=False)
    rows.add_column("expert", no_wrap=True)
    columns = [c for c in ("MDS", "disagreement", "loss %", "score") if _has(c, report, merged)]
    if predicted and not merge:
        columns.append("predicted disagreement")
    for column in columns:
        rows.add_column(column, justify="right", no_wrap=True)
    rows.add_column("verdict", no_wrap=True)
    for expert in report.experts:
        cells = [
            _predicted(predicted.get(expert.name))
            if column.startswith("predicted")
            else _cell(column, expert, merged.get(expert.name))
            for column in columns
        ]
        status = _status(report, expert.name)
        rows.add_row(expert.name, *cells, Text(status, style=_COLORS.get(status, "")))
    return rows


def _console(color: bool) -> Console:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    return Console(
        file=StringIO(), width=width, force_terminal=color, no_color=not color, highlight=False
    )


def _headline(report: Report) -> str:
    failing = sorted({v.expert or "" for v in report.verdicts if v.status == "fail"})
    undecided = [v for v in report.verdicts if v.status == "inconclusive"]
    seconds = f"{sum(report.seconds.values()):.1f} s"
    under = f" under {report.judged_method}" if report.judged_method else ""
    if report.status == "error":
        problems = sum(f.severity == "error" for f in report.findings)
        return f"{report.gate}: {problems} problem{'s' * (problems != 1)}, nothing was judged"
    if failing:
        return (
            f"{report.gate}: {len(failing)} of {len(report.experts)} experts over budget{under}: "
            f"{', '.join(failing)} ({seconds})"
        )
    if undecided:
        return f"{report.gate}: {undecided[0].message} ({seconds})"
    closest = max(report.verdicts, key=_use, default=None)
    nearest = f"; closest: {closest.message}" if closest else ""
    return f"{report.gate}: {len(report.experts)} experts within budget{under}{nearest} ({seconds})"


def _warnings(report: Report) -> str:
    """That there is more to read: one line is all that a passing gate says."""
    count = sum(finding.severity == "warning" for finding in report.findings)
    return f"; {count} warning{'s' * (count != 1)}, shown with -v" if count else ""


def _use(verdict: VerdictRecord) -> float:
    """How much of its limit a value uses up."""
    value = verdict.value or 0.0
    return value / verdict.limit if verdict.limit else value


def _pool_lines(report: Report, open_verdicts: Sequence[VerdictRecord]) -> Iterable[str]:
    names = list(dict.fromkeys(v.expert for v in open_verdicts))
    yield f"{len(names)} of {len(report.experts)} experts not within budget:"
    for verdict in sorted(open_verdicts, key=lambda v: names.index(v.expert)):
        yield f"  {verdict.message}"
    for merge in report.merges:
        losses = [e.disagreement for e in merge.experts]
        worst = f"largest disagreement {max(losses):.3g}"
        if merge.worst_loss is not None:
            worst += f", worst loss {merge.worst_loss:.3g} %"
        yield f"  method {merge.method}: {worst}"
    for cure in dict.fromkeys(cure for found in report.diagnoses for cure in found.cures):
        yield f"  try: {cure}"


def _finding(finding: FindingRecord) -> str:
    about = f"{finding.expert}: " if finding.expert else ""
    fix = f" (fix: {finding.fix})" if finding.fix else ""
    return f"{finding.code} {about}{finding.message}{fix}"


def _has(column: str, report: Report, merged: dict[str, MergedExpertRecord]) -> bool:
    match column:
        case "MDS":
            return any(e.mds is not None or e.mds_infinite for e in report.experts)
        case "disagreement":
            return bool(merged)
        case _:
            return any(expert.score_merged is not None for expert in merged.values())


def _cell(column: str, expert: ExpertRecord, merged: MergedExpertRecord | None) -> str:
    if column == "MDS":
        if expert.mds_infinite:
            return "∞"
        return "-" if expert.mds is None else f"{expert.mds:.2f}"
    if merged is None:
        return "-"
    match column:
        case "disagreement":
            return f"{merged.disagreement:.2f} (≤{merged.disagreement_upper:.2f})"
        case "loss %":
            return "-" if merged.loss is None else f"{merged.loss:.1f}"
        case _:
            if merged.score_expert is None or merged.score_merged is None:
                return "-"
            return f"{merged.score_expert:.2f} → {merged.score_merged:.2f}"


def _predicted(forecast: ForecastRecord | None) -> str:
    if forecast is None or forecast.disagreement is None:
        return "-"
    return f"{forecast.disagreement:.2f}"


def _status(report: Report, expert: str) -> str:
    statuses = {v.status for v in report.verdicts if v.expert == expert}
    for status in ("fail", "inconclusive", "pass"):
        if status in statuses:
            return status
    return "-"
