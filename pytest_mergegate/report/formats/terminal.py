"""What people see at a terminal: a bar while gates run, failure text, and the summary of a run."""

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pytest_mergegate.common.plain_text import clean, printable
from pytest_mergegate.common.wording import number_text, under
from pytest_mergegate.report.formats import reading
from pytest_mergegate.report.formats.advice import try_lines, why_lines
from pytest_mergegate.report.formats.cases import Told, page_width, worst_first
from pytest_mergegate.report.formats.failures import causes, verdicts
from pytest_mergegate.report.formats.numbers import columns, layer_columns
from pytest_mergegate.report.formats.text_tables import (
    COLORS,
    LONGEST_NAME,
    expert_tables,
    heatmap,
    text_table,
)
from pytest_mergegate.report.formats.unmerged import unmerged_lines
from pytest_mergegate.report.types import BaselineRecord, Collected, Report

SHORT = 5.0
"""Seconds for which a run without a terminal says nothing of how far it is."""
_MOVED = 5
"""As many moved numbers are shown where not all are asked for."""
_ASCII = str.maketrans(
    {"█": "#", "▓": "%", "▒": "+", "░": "-", "·": ".", "…": "~", "→": "->", "∞": "inf"}
    | {"≤": "<=", "≥": ">=", "−": "-"}
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How much a summary says, and what the place can show that it is written to."""

    verbosity: int = 0
    color: bool = False
    root: Path | None = None
    """Where the paths that are shown start."""
    reasons: bool = False
    """Whether to say why experts are over budget, where no failure text has said it."""
    encoding: str = "utf-8"
    width: int | None = None
    """In columns; None for that of the terminal."""


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Show a bar on standard error while the block runs; call the result with (what, fraction).

    In CI, and where standard error is no terminal, a line for everything that is begun, once a run
    is no longer a short one.
    """
    if os.environ.get("CI") or not sys.stderr.isatty():
        yield _line_by_line()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("mergegate: {task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading the pool", total=1.0)

        def tell(what: str, fraction: float) -> None:
            progress.update(task, description=clean(what), completed=fraction)

        yield tell


def _line_by_line() -> Callable[[str, float], None]:
    begun, told = time.monotonic(), set[str]()

    def tell(what: str, _: float) -> None:
        seconds = time.monotonic() - begun
        if seconds >= SHORT and what not in told:
            told.add(what)
            sys.stderr.write(f"mergegate: {clean(what)} (after {seconds:.0f} s)\n")
            sys.stderr.flush()

    return tell


def summary(reports: Sequence[Report], look: Look, sound: Sequence[Report] = ()) -> str:
    """What a run says in the end; docs/reports.md tells what at which verbosity.

    Of the ``sound`` preflight alone found nothing wrong, and their budgets stay unjudged: they have
    a line per gate, and every warning.
    """
    named = Collected(reports=(), root=look.root)
    page = _Page(look)
    for report in sound if look.verbosity >= 0 else ():
        budgets = ", ".join(dict.fromkeys(verdict.budget for verdict in report.verdicts))
        told = (
            f"{clean(named.name(report))}: {reading.plural(len(report.experts), 'expert')}, "
            f"nothing wrong; not judged: {budgets} ({sum(report.seconds.values()):.1f} s)"
        )
        page.headline("preflight", told)
        page.unwrapped(f"  {reading.finding_text(found)}" for found in report.findings)
    if look.verbosity < 0:
        reports = [report for report in reports if report.status != "pass"]
    for place, report in enumerate(reports):
        told_more = place and (reports[place - 1].status != "pass" or look.verbosity > 0)
        if told_more and look.verbosity >= 0:
            page.unwrapped([""])
        page.headline(report.status, _line(report, named.name(report), look))
        if look.verbosity >= 0:
            _explain(page, report, look, named.name(report))
    return page.text


def encoding_of(stream: object) -> str:
    """What ``stream`` can show."""
    return getattr(stream, "encoding", None) or "utf-8"


class _Page:
    """Lines as they accumulate, in what the place can show."""

    def __init__(self, look: Look) -> None:
        self.width = page_width(look.width)
        self._encoding = look.encoding
        self._written = StringIO()
        self._console = Console(
            file=self._written,
            width=self.width,
            force_terminal=look.color,
            no_color=not look.color,
            color_system="standard" if look.color else None,
            highlight=False,
            emoji=False,
            markup=False,
        )

    @property
    def text(self) -> str:
        """Everything, without blanks at the ends of lines."""
        text = "".join(f"{line.rstrip()}\n" for line in self._written.getvalue().splitlines())
        try:
            text.encode(self._encoding)
        except (UnicodeEncodeError, LookupError):
            return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")
        return text

    def headline(self, status: str, told: str) -> None:
        """The word for the outcome, and the outcome in one line."""
        line = Text(f"{status.upper()} ", style=COLORS.get(status, "green"))
        self._console.print(line.append(printable(told), style="default"), soft_wrap=True)

    def unwrapped(self, lines: Iterable[str]) -> None:
        """Lines that hold paths, which are there to be copied."""
        for line in lines:
            self._console.print(Text(printable(line)), soft_wrap=True)

    def prose(self, lines: Iterable[str], deeper: int = 4) -> None:
        """Lines that go on, ``deeper``, where they are too long."""
        for line in map(printable, lines):  # before it is wrapped: no word may become a command
            indent = line[: len(line) - len(line.lstrip())]
            self.unwrapped(
                textwrap.wrap(
                    line,
                    self.width,
                    subsequent_indent=indent + " " * deeper,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
                or [""]
            )

    def paragraph(self, lines: Iterable[str]) -> None:
        """Lines that go on, with a blank one before them; nothing where there are none."""
        found = list(lines)
        self.prose(["", *found] if found else (), deeper=2)

    def tables(self, tables: Iterable[Table]) -> None:
        """Tables that are no wider than the page."""
        for table in tables:
            self._console.print(table)


def _line(report: Report, name: str, look: Look) -> str:
    seconds = f" ({sum(report.seconds.values()):.1f} s)" if report.seconds else ""
    count = sum(finding.severity == "warning" for finding in report.findings)
    told = look.verbosity <= 0 and report.status != "error" and count
    warned = f"; {reading.plural(count, 'warning')}, shown with -v" if told else ""
    return f"{clean(name)}: {reading.headline(report)}{seconds}{warned}"


def _explain(page: _Page, report: Report, look: Look, name: str) -> None:
    """Why a gate did not pass, and what to do; for ``-v`` everything, of all gates."""
    detailed = look.verbosity > 0
    if report.status == "error" or not report.experts:
        page.unwrapped(f"  {reading.finding_text(finding)}" for finding in report.findings)
        return
    if report.baseline is not None and not detailed:
        page.prose(f"  {line}" for line in _baseline_lines(report.baseline, brief=True))
    if report.status == "pass" and not detailed:
        return
    judged = reading.merge_of(report)
    others = [merge for merge in report.merges if merge is not judged]
    for merge in (judged, *others) if detailed else (judged,):
        title = under(merge.method) if merge else report.judged_method
        shown = columns(report, merge, detailed=detailed)
        page.tables(expert_tables(report.expert_names, shown, page.width, title))
    if not detailed:
        page.prose(f"{under(clean(merge.method))}: {reading.worst_of(merge)}" for merge in others)
    if report.status != "pass":
        for lines in (why_lines(report), try_lines(report, name)):
            page.paragraph(lines)
        if look.reasons:
            _explain_experts(page, report, whole=detailed)
        page.paragraph(unmerged_lines(report, whole=detailed))
    if detailed:
        _detail(page, report, look)


def _explain_experts(page: _Page, report: Report, *, whole: bool) -> None:
    """What is over budget of the experts that have a case to show, and of the undecided; of all
    for ``whole``."""
    told = Told(report, page.width, whole=whole)
    concerns = [c for c in worst_first(report) if c.expert in report.expert_names]
    shown = concerns if whole else told.chosen(concerns)
    for concern in shown:
        page.unwrapped([""])
        page.prose(verdicts(concern))
        page.unwrapped(told.lines(concern.expert, 2))
        page.prose(causes(concern) if whole else ())
    if more := len(concerns) - len(shown):
        page.unwrapped(["", f"{reading.plural(more, 'more expert')}, shown with -v"])


def _detail(page: _Page, report: Report, look: Look) -> None:
    """What stands behind it all."""
    page.paragraph(f"or: {clean(remedy.text)}" for remedy in report.remedies[1:])
    if picture := heatmap(report, page.width):
        page.paragraph(picture[:1])
        page.unwrapped(picture[1:])
    page.unwrapped([""])
    if look.verbosity > 1 and report.conflicts is not None and report.conflicts.layers:
        page.unwrapped(["conflict by layer, means over all pairs"])
        layers, label = report.conflicts.layers, min(LONGEST_NAME, page.width - 34)
        page.tables([text_table(layers, layer_columns(report), label, about="layer")])
    page.prose(_detail_lines(report))
    page.prose(f"  {reading.finding_text(found)}" for found in reading.told_findings(report))


def _detail_lines(report: Report) -> Iterator[str]:
    """Baseline, distortion curve, and where the time went."""
    if report.baseline is not None:
        yield from _baseline_lines(report.baseline)
    for point in report.plan.curve if report.plan is not None else ():
        groups = "; ".join(reading.some(group) for group in point.groups)
        models = reading.plural(point.models, "model")
        yield f"distortion in {models}: {number_text(point.distortion)} ({groups})"
    if (line := reading.untried(report)) is not None:
        yield f"not tried: {line}"
    if report.seconds:
        stages = ", ".join(f"{stage} {taken:.2f}" for stage, taken in report.seconds.items())
        yield f"seconds: {stages}; on {reading.device(report)}"
    if (line := reading.tokens(report)) is not None:
        yield f"tokens: {line}"
    yield f"cache: hits {report.cache.hits}, misses {report.cache.misses}"


def _baseline_lines(baseline: BaselineRecord, *, brief: bool = False) -> Iterator[str]:
    """What moved against the baseline; brief is the first few numbers of it."""
    path = clean(baseline.path)
    if not baseline.comparable:
        yield f"baseline {path}: not comparable: {clean(baseline.reason or 'no reason was given')}"
        return
    told = (("added", baseline.added), ("removed", baseline.removed), ("changed", baseline.changed))
    parts = [f"{what}: {reading.some(names)}" for what, names in told if names]
    parts += [] if baseline.changes else ["no number moved"]
    yield f"baseline {path}: {'; '.join(parts) or 'these numbers moved'}"
    shown = baseline.changes[: _MOVED if brief else None]
    for change in shown:
        pair = f" and {clean(change.other)}" if change.other else ""
        yield f"  {clean(change.expert)}{pair}: {reading.change_text(change)}"
    if len(shown) < len(baseline.changes):
        yield f"  and {len(baseline.changes) - len(shown)} more, shown with -v"
