"""Why a gate did not pass, by cause, and the best thing to do about it."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pytest_mergegate.common.files.documents import in_document
from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import under
from pytest_mergegate.report.formats import reading
from pytest_mergegate.report.types import FindingRecord, Report

_ABOUT_A_FINISHED_MERGE = frozenset(("MG131", "MG132", "MG133", "MG307", "MG308"))


class CauseGroup(NamedTuple):
    """Experts that are over budget for the same reason."""

    kind: str
    experts: tuple[str, ...]
    figures: str | None
    """What the reason rests on: of all of them where it is the same, else of the first."""

    @property
    def text(self) -> str:
        """Who, why and the figures, in one line."""
        figures = f": {clean(self.figures)}" if self.figures else ""
        if not self.experts:
            return f"{clean(self.kind)}{figures}"
        if len(self.experts) == 1:
            return f"{clean(self.experts[0])}: {clean(self.kind)}{figures}"
        who = reading.some(self.experts)
        count = reading.plural(len(self.experts), "expert")
        return f"{count}: {clean(self.kind)} ({who}){figures}"


class Advice(NamedTuple):
    """What to do, and what to type."""

    text: str
    steps: tuple[str, ...]


def cause_groups(report: Report) -> list[CauseGroup]:
    """The causes, that of most experts first; those of a whole merge before all."""
    by_kind: dict[str, list[tuple[str, str | None]]] = {}
    for found in report.diagnoses:
        if kind := found.kind or found.cause:
            by_kind.setdefault(kind, []).append((found.expert, found.figures))
    whole = []
    for finding in _of_a_finished_merge(report):
        kind, _, seen = finding.message.partition(": ")
        if finding.expert is None:
            whole.append(CauseGroup(kind, (), seen or None))
        else:
            by_kind.setdefault(kind, []).append((finding.expert, seen or None))
    groups = []
    for kind, members in by_kind.items():
        experts, figures = zip(*members, strict=True)
        told = figures[0]
        if told is not None and len(members) > 1:
            same = len(set(figures)) == 1
            told = told.replace("its ", "their ") if same else f"of {experts[0]}, {told}"
        groups.append(CauseGroup(kind, experts, told))
    return [*whole, *sorted(groups, key=lambda group: -len(group.experts))]


def _of_a_finished_merge(report: Report) -> list[FindingRecord]:
    """What files, numbers and answers of a finished merge say of how it came about."""
    told = report.findings if report.merged is not None else ()
    return [finding for finding in told if finding.code in _ABOUT_A_FINISHED_MERGE]


def advice(report: Report, name: str | None = None) -> Advice | None:
    """The best thing to do about a gate that did not pass; None where nothing was found.

    ``name`` is how people call the gate file; by default it is seen from the working folder.
    """
    gate = _gate_file(report, name)
    if report.remedies:
        best = report.remedies[0]
        steps = [f"in {gate or 'the gate'}: merge: {best.setting}"] if best.setting else []
        return Advice(best.text, (*steps, *_check(gate, planned=best.setting is None)))
    if (groups := reading.instead(report)) is not None:
        return Advice(groups, _check(gate, planned=True))
    if told := _of_a_finished_merge(report):
        return Advice(told[0].fix, ())
    return None


def why_lines(report: Report) -> Iterator[str]:
    """The causes for people, a line each."""
    groups = cause_groups(report)
    if groups:
        where = f" {under(clean(report.judged_method))}" if report.judged_method else ""
        yield f"why{where}:"
        yield from (f"  {group.text}" for group in groups)


def try_lines(report: Report, name: str | None = None) -> Iterator[str]:
    """What to do, and below it what to type."""
    if (found := advice(report, name)) is not None:
        yield f"try: {clean(found.text)}"
        yield from (f"  {clean(step)}" for step in found.steps)


def _gate_file(report: Report, name: str | None) -> str | None:
    """The gate file as the shell takes it; None for a gate that has no file."""
    path = Path(report.gate)
    if in_document(path)[0].suffix not in {".yaml", ".yml"}:
        return None
    if name is None:
        here = Path.cwd()
        name = (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()
    return shlex.quote(clean(name))


def _check(gate: str | None, *, planned: bool) -> tuple[str, ...]:
    if gate is None:
        return ()
    return (f"mergegate plan {gate} --write plan" if planned else f"mergegate check {gate}",)
