"""What to say of a gate that did not pass: what is over budget, why, and what to do."""

from collections.abc import Iterator

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.report.formats import reading
from pytest_mergegate.report.formats.advice import try_lines, why_lines
from pytest_mergegate.report.formats.cases import Told, page_width
from pytest_mergegate.report.types import Report


def failure_text(
    report: Report, expert: str | None, *, brief: bool = False, whole: bool = False
) -> str:
    """What to say of a gate that did not pass; of one expert, or, for None, of the pool.

    Brief is for the pool where every expert has a text of its own, ``whole`` for every case that
    there is.
    """
    told = Told(report, page_width(), whole=whole)
    if report.status == "error":
        problems = [f for f in report.findings if f.severity == "error"]
        concerned = [f for f in problems if expert in (None, f.expert)] or problems
        return "\n".join(reading.finding_text(finding) for finding in concerned)
    if expert is not None:
        own = [concern for concern in reading.concerns(report) if concern.expert == expert]
        parts = [part for c in own for part in (verdicts(c), told.lines(expert, 2), causes(c))]
        return "\n".join(line for part in parts for line in part)
    return "\n".join(_pool_lines(report, told, brief=brief)) or reading.NO_VERDICT


def verdicts(concern: reading.Concern) -> Iterator[str]:
    """What is over budget."""
    return (clean(verdict.message) for verdict in concern.verdicts)


def causes(concern: reading.Concern) -> Iterator[str]:
    """Why."""
    lines = concern.diagnosis.facts if concern.diagnosis is not None else ()
    return (f"  {clean(line)}" for line in lines)


def _pool_lines(report: Report, told: Told, *, brief: bool) -> Iterator[str]:
    found = reading.concerns(report)
    if not found:
        return
    names = [concern.expert or "" for concern in found]
    over = f"{len(names)} of {reading.plural(len(report.experts), 'expert')} not within budget:"
    yield f"{over} {reading.some(names)}"
    for merge in report.merges:
        yield f"  method {clean(merge.method)}: {reading.worst_of(merge)}"
    yield from (f"  {line}" for line in (*why_lines(report), *try_lines(report)))
    for concern in () if brief else found:
        yield from (f"  {line}" for line in verdicts(concern))
        yield from told.lines(concern.expert, 4)
