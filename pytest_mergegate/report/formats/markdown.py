"""Reports as Markdown: the summary of a CI job, and the comment on a pull request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.report.formats.columns import columns
from pytest_mergegate.report.formats.heatmap import heatmap
from pytest_mergegate.report.formats.links import finding_page
from pytest_mergegate.report.formats.markdown_text import (
    block,
    code,
    code_plain,
    details,
    prose,
    table,
)
from pytest_mergegate.report.formats.planned import instead
from pytest_mergegate.report.formats.reading import (
    change_text,
    headline,
    merge_of,
    open_verdicts,
    plural,
    some,
    told_findings,
    worst_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mergegate.report.collected import Collected
    from pytest_mergegate.report.types import BaselineRecord, FindingRecord, Report

LIMIT = (1 << 20) - 1
"""Bytes: GitHub takes summaries of a job's step below 1 MiB."""
COMMENT_LIMIT = 65_535
"""Bytes, and so no more characters: GitHub takes comments below 65,536."""
SYMBOLS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "error": "⛔"}
_WIDE = 120


class Weight(IntEnum):
    """What is left out first where there is no room: the largest."""

    VERDICT = 0
    CAUSE = 1
    PASSED = 2
    TABLE = 3
    BASELINE = 4
    FINDINGS = 5
    METHODS = 6
    PASSED_TABLE = 7
    HEATMAP = 8
    RUN = 9


_LEFT_OUT = {
    Weight.VERDICT: "gates that did not pass",
    Weight.CAUSE: "experts with causes and cures",
    Weight.PASSED: "gates that passed",
    Weight.TABLE: "tables",
    Weight.BASELINE: "comparisons with the baseline",
    Weight.FINDINGS: "lists of findings",
    Weight.METHODS: "other methods",
    Weight.PASSED_TABLE: "tables of gates that passed",
    Weight.HEATMAP: "heatmaps",
    Weight.RUN: "notes on the run",
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the page that can be left out as a whole."""

    weight: Weight
    text: str

    @property
    def size(self) -> int:
        """In bytes, with what parts it from the next."""
        return len(self.text.encode()) + 2


def render(reports: Collected, *, limit: int = LIMIT) -> str:
    """The page, in at most ``limit`` bytes; it says what it leaves out to keep them."""
    top = "\n".join(_top(reports))
    parts = [part for report in reports.reports for part in _parts(reports.name(report), report)]
    kept, cut = _fitting(parts, limit - len(top.encode()) - 600)
    told = ", ".join(f"{count} {_LEFT_OUT[weight]}" for weight, count in sorted(cut.items()))
    note = [f"_Left out for want of room: {told}. The JSON report has everything._"] if cut else []
    return "\n\n".join([top, *note, *(part.text for part in kept)]) + "\n"


def _fitting(parts: Sequence[Part], room: int) -> tuple[list[Part], dict[Weight, int]]:
    """The parts that fit, in their order, and how many of which weight do not."""
    chosen: set[int] = set()
    cut: dict[Weight, int] = {}
    for place in sorted(range(len(parts)), key=lambda place: (parts[place].weight, place)):
        part = parts[place]
        # once something is left out, so is all that weighs less
        if part.size > room or any(weight < part.weight for weight in cut):
            cut[part.weight] = cut.get(part.weight, 0) + 1
            continue
        chosen.add(place)
        room -= part.size
    return [part for place, part in enumerate(parts) if place in chosen], cut


def _top(reports: Collected) -> Iterator[str]:
    counts = {s: sum(r.status == s for r in reports.reports) for s in SYMBOLS}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    gates = plural(len(reports.reports), "gate")
    yield f"## {SYMBOLS[reports.status]} Merge gates: {reports.status}"
    yield ""
    yield f"{gates}: {told}." if told else "No gate ran, and that is no pass."
    if not reports.complete:
        yield ""
        yield "**Not every gate that was asked for has reported: this is no pass.**"


def _parts(name: str, report: Report) -> Iterator[Part]:
    verdict = f"### {SYMBOLS[report.status]} {report.status.upper()} {code_plain(name)}"
    passed = report.status == "pass"
    weight = Weight.PASSED if passed else Weight.VERDICT
    yield Part(weight=weight, text=f"{verdict}\n\n{prose(headline(report))}")
    if report.status != "error" and report.experts:
        shown = _experts(report)
        weight = Weight.PASSED_TABLE if passed else Weight.TABLE
        text = details(f"{len(report.experts)} experts", shown) if passed else shown
        yield Part(weight=weight, text=text)
    for text in _causes(report):
        yield Part(weight=Weight.CAUSE, text=text)
    if (line := instead(report)) is not None:
        yield Part(weight=Weight.CAUSE, text=f"**What would pass instead:** {prose(line)}")
    if report.baseline is not None:
        yield Part(weight=Weight.BASELINE, text="\n".join(_baseline(report.baseline)))
    if findings := told_findings(report):
        yield Part(weight=Weight.FINDINGS, text=_findings(report, findings))
    if len(report.merges) > 1:
        rows = [f"- {code_plain(m.method)}: {worst_of(m)}" for m in report.merges]
        yield Part(weight=Weight.METHODS, text=details("Every method", "\n".join(rows)))
    if report.status != "error" and (picture := heatmap(report, _WIDE)):
        text = details("How alike the experts are", block(picture.text))
        yield Part(weight=Weight.HEATMAP, text=text)
    yield Part(weight=Weight.RUN, text=f"<sub>{_run(report)}</sub>")


def _experts(report: Report) -> str:
    shown = columns(report)
    heads = [" ".join(filter(None, (c.title, c.unit, c.limit))) for c in shown]
    rows = [["expert", *heads]]
    for name in report.expert_names:
        cells = (_status(c.cells[name]) if c.title == "verdict" else c.cells[name] for c in shown)
        rows.append([code(name), *cells])
    merge = merge_of(report)
    method = merge.method if merge else report.judged_method
    under = f"Under {code_plain(method)}:\n\n" if method else ""
    return under + table(rows)


def _status(status: str) -> str:
    return f"{SYMBOLS.get(status, '')} {status}".strip()


def _causes(report: Report) -> Iterator[str]:
    """Of every expert that is not within budget: what is over, why, and what to do."""
    for name in dict.fromkeys(verdict.expert for verdict in open_verdicts(report)):
        own = [v for v in open_verdicts(report) if v.expert == name]
        lines = [f"**{code_plain(name or 'the pool')}**", ""]
        lines += [f"- {SYMBOLS[v.status]} {prose(v.message)}" for v in own]
        for found in (found for found in report.diagnoses if found.expert == name):
            lines += [f"- {prose(fact)}" for fact in found.facts]
            lines += [f"- **Try:** {prose(cure)}" for cure in found.cures]
        yield "\n".join(lines)


def _baseline(baseline: BaselineRecord) -> Iterator[str]:
    yield f"**Against the baseline {code_plain(baseline.path)}**"
    yield ""
    if not baseline.comparable:
        yield f"- Not comparable: {prose(baseline.reason or 'no reason was given')}"
        return
    told = (("Added", baseline.added), ("Removed", baseline.removed), ("Changed", baseline.changed))
    for what, names in told:
        if names:
            yield f"- {what}: {', '.join(code_plain(name) for name in names)}"
    if not baseline.changes:
        yield "- No number moved."
        return
    rows = [["expert", "what moved"]]
    for change in baseline.changes:
        pair = f" and {code(change.other)}" if change.other else ""
        rows.append([f"{code(change.expert)}{pair}", prose(change_text(change))])
    yield f"- {plural(len(baseline.changes), 'number')} moved:"
    yield ""
    yield details("What moved", table(rows)) if len(rows) > 9 else table(rows)


def _findings(report: Report, findings: Sequence[FindingRecord]) -> str:
    lines = []
    for found in findings:
        about = f"{code_plain(found.expert)}: " if found.expert else ""
        where = f" (line {found.line})" if found.line else ""
        fix = f" **Fix:** {prose(found.fix)}" if found.fix else ""
        link = f"[{found.code}]({finding_page(found.code)})"
        lines.append(f"- {link} {found.severity}{where}: {about}{prose(found.message)}{fix}")
    text = "\n".join(lines)
    if report.status == "error":
        return text
    return details(plural(len(findings), "finding"), text)


def _run(report: Report) -> str:
    seconds = f"{sum(report.seconds.values()):.1f} s on {prose(report.device)}"
    cache = f"cache: hits {report.cache.hits}, misses {report.cache.misses}"
    drop = report.plan.drop if report.plan else ()
    dropped = f"; the plan leaves out {prose(some(drop))}" if drop else ""
    version = clean(report.versions.get("pytest-mergegate", ""))
    return f"{seconds}; {cache}{dropped}; pytest-mergegate {prose(version)}"
