"""Reports as Markdown: the summary of a CI job, and the comment on a pull request."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import FINISHED
from pytest_mergegate.report.formats import reading
from pytest_mergegate.report.formats.advice import advice, cause_groups
from pytest_mergegate.report.formats.cases import case_lines, cases_of
from pytest_mergegate.report.formats.numbers import Column, columns, token_columns
from pytest_mergegate.report.formats.text_tables import heatmap
from pytest_mergegate.report.formats.unmerged import unmerged_lines
from pytest_mergegate.report.types import BaselineRecord, Collected, FindingRecord, Report

LIMIT = (1 << 20) - 1
"""Bytes: GitHub takes summaries of a job's step below 1 MiB."""
COMMENT_LIMIT = 65_535
"""Bytes, and so no more characters: GitHub takes comments below 65,536."""
SYMBOLS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "error": "⛔"}
_WIDE = 120


class Kind(StrEnum):
    """What a part of the page is; where there is no room, the last of these go first."""

    VERDICT = "gates that did not pass"
    CAUSE = "experts with causes"
    PASSED = "gates that passed"
    TABLE = "tables"
    BASELINE = "comparisons with the baseline"
    FINDINGS = "lists of findings"
    CASES = "experts' changed cases"
    METHODS = "other methods"
    PASSED_TABLE = "tables of gates that passed"
    TOKENS = "tables of tokens"
    HEATMAP = "heatmaps"
    RUN = "notes on the run"


Part = tuple[Kind, str]
"""A part of the page that can be left out as a whole."""


def render(reports: Collected, *, limit: int = LIMIT) -> str:
    """The page, in at most ``limit`` bytes; it says what it leaves out to keep them."""
    top = "\n".join(_top(reports))
    parts = [part for report in reports.reports for part in _parts(reports.name(report), report)]
    kept, cut = _fitting(parts, limit - len(top.encode()) - 600)
    told = ", ".join(f"{count} {kind}" for kind, count in cut.items())
    note = [f"_Left out for want of room: {told}. The JSON report has everything._"] if cut else []
    return "\n\n".join([top, *note, *kept]) + "\n"


def _fitting(parts: Sequence[Part], room: int) -> tuple[list[str], Counter[Kind]]:
    """The texts that fit, in their order, and how many of which kind do not."""
    chosen: set[int] = set()
    cut: Counter[Kind] = Counter()
    for kind in Kind:
        full = bool(cut)  # once something is left out, so is all that weighs less
        for place, text in ((k, text) for k, (of, text) in enumerate(parts) if of is kind):
            size = len(text.encode()) + 2  # with what parts it from the next
            if full or size > room:
                cut[kind] += 1
            else:
                chosen.add(place)
                room -= size
    return [text for place, (_, text) in enumerate(parts) if place in chosen], cut


def _top(reports: Collected) -> Iterator[str]:
    counts = {s: sum(r.status == s for r in reports.reports) for s in SYMBOLS}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    gates = reading.plural(len(reports.reports), "gate")
    yield f"## {SYMBOLS[reports.status]} Merge gates: {reports.status}"
    yield ""
    yield f"{gates}: {told}." if told else "No gate ran, and that is no pass."
    if not reports.complete:
        yield ""
        yield "**Not every gate that was asked for has reported: this is no pass.**"


def _parts(name: str, report: Report) -> Iterator[Part]:
    passed = report.status == "pass"
    verdict = f"### {SYMBOLS[report.status]} {report.status.upper()} {code_plain(name)}"
    kind = Kind.PASSED if passed else Kind.VERDICT
    yield kind, f"{verdict}\n\n{prose(reading.headline(report))}"
    if report.status != "error" and report.experts:
        shown = _experts(report)
        if passed:
            yield Kind.PASSED_TABLE, details(f"{len(report.experts)} experts", shown)
        else:
            yield Kind.TABLE, shown
    if not passed and (told := _advice(name, report)):
        yield Kind.CAUSE, told
    if lines := [*unmerged_lines(report, whole=True)]:
        yield Kind.METHODS, details("Serve the adapters unmerged", block("\n".join(lines)))
    for concern in reading.concerns(report):
        yield Kind.CAUSE, _cause(concern)
        if cases := cases_of(report, concern.expert):
            text = block("\n".join(case_lines(cases, _WIDE)))
            told = f"What changed most: {reading.plural(len(cases), 'case')}"
            yield Kind.CASES, details(told, text)
    if report.baseline is not None:
        yield Kind.BASELINE, "\n".join(_baseline(report.baseline))
    if findings := reading.told_findings(report):
        text = "\n".join(map(_finding, findings))
        if report.status != "error":
            text = details(reading.plural(len(findings), "finding"), text)
        yield Kind.FINDINGS, text
    if len(report.merges) > 1:
        rows = [f"- {code_plain(m.method)}: {reading.worst_of(m)}" for m in report.merges]
        yield Kind.METHODS, details("Every method", "\n".join(rows))
    if (merge := reading.merge_of(report)) and (tokens := token_columns(report, merge)):
        told = _tokens(report, tokens)
        yield Kind.TOKENS, details("Token by token, on the experts' own answers", told)
    if report.status != "error" and (picture := heatmap(report, _WIDE)):
        yield (Kind.HEATMAP, details("How alike the experts are", block("\n".join(picture))))
    yield Kind.RUN, f"<sub>{_run(report)}</sub>"


def _experts(report: Report) -> str:
    shown, rows = columns(report), []
    for name in report.expert_names:
        cells = [column.cells[name] for column in shown]
        marked = (f"{SYMBOLS.get(cell, '')} {cell}".strip() for cell in cells)
        rows.append([code(name), *marked])
    merge = reading.merge_of(report)
    method = merge.method if merge else report.judged_method
    headed = "" if method is None else f"Under {code_plain(method)}:\n\n"
    if method == FINISHED:
        headed = "In the finished merge:\n\n"
    return headed + table(_heads(shown), rows)


def _tokens(report: Report, shown: Sequence[Column]) -> str:
    """How a merge predicts the tokens of the experts' own answers."""
    names = report.expert_names
    return table(_heads(shown), ([code(n), *(c.cells[n] for c in shown)] for n in names))


def _heads(shown: Sequence[Column]) -> list[str]:
    return ["expert", *(" ".join(filter(None, (c.title, c.unit, c.limit))) for c in shown)]


def _advice(name: str, report: Report) -> str:
    """Why the experts are over budget, by cause, and the best thing to do; empty for neither."""
    lines = [f"- {prose(group.text)}" for group in cause_groups(report)]
    if (found := advice(report, name)) is not None:
        lines += ["", f"**Try:** {prose(found.text)}"]
        lines += ["", block("\n".join(map(clean, found.steps)))] if found.steps else []
    return "\n".join(lines).strip()


def _cause(concern: reading.Concern) -> str:
    """Of an expert that is not within budget: what is over, and why."""
    lines = [f"**{code_plain(concern.expert or 'the pool')}**", ""]
    lines += [f"- {SYMBOLS[v.status]} {prose(v.message)}" for v in concern.verdicts]
    if concern.diagnosis is not None:
        lines += [f"- {prose(fact)}" for fact in concern.diagnosis.facts]
    return "\n".join(lines)


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
    rows = []
    for change in baseline.changes:
        pair = f" and {code(change.other)}" if change.other else ""
        rows.append([f"{code(change.expert)}{pair}", prose(reading.change_text(change))])
    yield f"- {reading.plural(len(rows), 'number')} moved:"
    yield ""
    moved = table(["expert", "what moved"], rows)
    yield details("What moved", moved) if len(rows) > 8 else moved


def _finding(found: FindingRecord) -> str:
    about = f"{code_plain(found.expert)}: " if found.expert else ""
    where = f" (line {found.line})" if found.line else ""
    fix = f" **Fix:** {prose(found.fix)}" if found.fix else ""
    link = f"[{found.code}]({reading.finding_page(found.code)})"
    return f"- {link} {found.severity}{where}: {about}{prose(found.message)}{fix}"


def _run(report: Report) -> str:
    seconds = f"{sum(report.seconds.values()):.1f} s on {prose(reading.device(report))}"
    cache = f"cache: hits {report.cache.hits}, misses {report.cache.misses}"
    version = clean(report.versions.get("pytest-mergegate", ""))
    tokens = f"; tokens: {line}" if (line := reading.tokens(report)) else ""
    untried = f"; not tried: {prose(line)}" if (line := reading.untried(report)) else ""
    return f"{seconds}{tokens}; {cache}{untried}; pytest-mergegate {prose(version)}"


# Words of strangers: no markup, no link, no mention comes of them.

_MARKUP = re.compile(r"[\\`*_\[\]<|~$&]")
_LEADING = re.compile(r"^(\d*)([-+=:#>]|[.)](?=\s|$))")
_REFERENCE = re.compile(r"(?<=[@#])(?=\w)|(?<=://)(?=\S)|(?<=\bGH-)(?=\d)|(?<=\bwww)(?=\.)", re.I)
_BREAK = "&#8203;"
"""A space of no width: what it parts is neither a mention, a reference nor a link to GitHub."""


def prose(text: str) -> str:
    """``text`` as it stands, in a paragraph, a list or a cell of a table."""
    marked = _REFERENCE.sub("\u200b", clean(text))
    escaped = _MARKUP.sub(r"\\\g<0>", marked)
    return _LEADING.sub(r"\1\\\2", escaped).replace("\u200b", _BREAK)


def code(text: str) -> str:
    """``text`` as a span of code, also in a cell of a table."""
    return code_plain(text).replace("|", r"\|")


def code_plain(text: str) -> str:
    """``text`` as a span of code outside of tables, where a bar needs no backslash."""
    shown = clean(text)
    fence = "`" * (_longest_run(shown) + 1)
    space = " " if "`" in shown or not shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}"


def block(text: str) -> str:
    """``text`` as a block of code."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def details(summary: str, content: str) -> str:
    """``content``, folded away under a summary of our own words."""
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are Markdown already."""
    first, *body = (f"| {' | '.join(row)} |" for row in (head, *rows))
    return "\n".join([first, "|" + " --- |" * len(head), *body])


def _longest_run(text: str) -> int:
    return max(map(len, re.findall(r"`+", text)), default=0)
