"""What a run says to GitHub Actions: annotations, the summary's length, and the outputs.

Nothing here may be trusted to be free of line breaks, colons or percent signs: the names of experts
and branches come from pull requests.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pytest_mergegate.common.plain_text import clean, cut
from pytest_mergegate.common.statuses import STATUSES, Status
from pytest_mergegate.report.types import Collected, Report, VerdictRecord

SUMMARY_LIMIT = 1_000_000
"""Bytes. GitHub takes less than 1 MiB of a step."""
COMMENT_LIMIT = 60_000
"""Bytes. GitHub takes 65,536 characters, and the workflow that posts adds a few lines."""
_SHOWN = 10
"""GitHub shows no more annotations of one level for a step, and drops the others silently."""
_MESSAGE_LIMIT = 4_000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    status: Status
    exit_code: int
    problem: str | None = None
    """What is wrong with the run itself, rather than with a pool."""
    note: str | None = None
    """What else there is to say of it."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """A remark at a line of a file."""

    level: Literal["error", "warning"]
    title: str
    message: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        """As the workflow command that makes it."""
        properties = {
            "file": self.file,
            "line": None if self.file is None else self.line,
            "title": cut(self.title),
        }
        said = ",".join(
            f"{name}={_escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}"
            for name, value in properties.items()
            if value is not None
        )
        text = self.message
        text = text if len(text) <= _MESSAGE_LIMIT else f"{text[:_MESSAGE_LIMIT]}…"
        message = "\n".join(map(clean, text.split("\n")))
        return f"::{self.level} {said}::{_escaped(message)}"


def outcome(found: Collected | None, *, exit_code: int, required: int, since: str = "") -> Outcome:
    """Whether the run may be green: only where its exit code and its report both say so.

    With ``since``, gates that no change concerns have not run: the check has counted those that
    there are, and an empty report says that it left out all of them.
    """
    if found is None:
        problem = "nothing was gated" if exit_code == 5 else "the check wrote no report"
        told = f"{problem} (exit code {exit_code}); its output says more"
        return Outcome(status="error", exit_code=exit_code or 2, problem=told)
    if since and not found.reports and found.complete and exit_code == 0:
        told = f"no change since {since} concerns a gate: none was run"
        return Outcome(status="inconclusive", exit_code=0, note=told)
    if len(found.reports) < (1 if since else max(1, required)):
        count = len(found.reports)
        told = f"{count} gate{'s' * (count != 1)} ran, and there must be {max(1, required)}"
        return Outcome(status="error", exit_code=exit_code or 5, problem=told)
    if exit_code == 0 and found.status != "pass" and not only_preflight(found):
        told = f"the check ended well, and its report says {found.status}"
        return Outcome(status=found.status, exit_code=1, problem=told)
    if exit_code != 0 and found.status == "pass":
        told = f"every gate passed, but the check ended with exit code {exit_code}"
        return Outcome(status="error", exit_code=exit_code, problem=f"{told}; its output says more")
    note = "nothing is wrong so far; preflight judges no budget" if only_preflight(found) else None
    return Outcome(status=found.status, exit_code=exit_code, note=note)


def only_preflight(found: Collected) -> bool:
    """Whether no verdict on the budgets was asked for, and nothing is wrong so far."""
    return bool(found.complete and found.reports) and all(
        report.status == "inconclusive" and report.settings.get("stage") == "preflight"
        for report in found.reports
    )


def annotate(found: Collected, workspace: Path) -> tuple[Annotation, ...]:
    """One for each expert that did not pass and for each finding, the worst first."""
    said = [a for report in found.reports for a in _of_report(report, workspace)]
    errors = [a for a in said if a.level == "error" and not only_preflight(found)]
    return (*_shown(errors), *_shown([a for a in said if a.level == "warning"]))


def worst_expert(found: Collected) -> str | None:
    """The one furthest over its budget, or nearest to it; None where no verdict names one."""
    judged = [v for report in found.reports for v in report.verdicts if v.expert is not None]
    if any(report.status == "error" for report in found.reports):
        broken = (f for r in found.reports for f in r.findings if f.severity == "error")
        return next((f.expert for f in broken if f.expert is not None), None)
    worst = None if only_preflight(found) else max(judged, key=_badness, default=None)
    return worst.expert if worst else None


def output_text(outputs: Mapping[str, str]) -> str:
    """For ``GITHUB_OUTPUT``, with a delimiter that no value can foresee."""
    lines = []
    for name, value in outputs.items():
        delimiter = f"mergegate-{secrets.token_hex(16)}"
        lines.append(f"{name}<<{delimiter}\n{value}\n{delimiter}\n")
    return "".join(lines)


def _badness(verdict: VerdictRecord) -> tuple[int, float]:
    order = STATUSES.index(verdict.status)
    if verdict.value_infinite:
        return order, float("inf")
    value = verdict.value or 0.0
    return order, value / verdict.limit if verdict.limit else value


def _of_report(report: Report, workspace: Path) -> Iterator[Annotation]:
    path, root = Path(report.gate).resolve(), workspace.resolve()
    # from the root of the checkout; None where the gate file lies outside
    file = path.relative_to(root).as_posix() if path.is_relative_to(root) else None
    yield from _of_verdicts(report, file)
    explained = {d.expert for d in report.diagnoses}
    for found in report.findings:
        if found.severity == "note" or (found.code == "MG401" and found.expert in explained):
            continue
        about = f"{found.expert}: " if found.expert else ""
        fix = f"\nfix: {found.fix}" if found.fix else ""
        yield Annotation(
            level=found.severity,
            title=f"{found.code} {about}{Path(report.gate).name}",
            message=found.message + fix,
            file=file,
            line=found.line,
        )
    if report.status == "error" and all(f.severity != "error" for f in report.findings):
        yield Annotation(
            level="error", title="merge gate", message=f"{report.gate}: error", file=file
        )


def _of_verdicts(report: Report, file: str | None) -> Iterator[Annotation]:
    diagnoses = {d.expert: d for d in report.diagnoses}
    undone = [v for v in report.verdicts if v.status != "pass"]
    for expert in dict.fromkeys(v.expert for v in sorted(undone, key=_badness, reverse=True)):
        own = [v for v in undone if v.expert == expert]
        said = "over budget" if any(v.status == "fail" for v in own) else "undecided"
        known = diagnoses.get(expert) if expert is not None else None
        lines = [*(v.message for v in own), *(known.lines if known else ())]
        yield Annotation(
            level="error",
            title=f"{expert or 'the pool'}: {said}",
            message="\n".join(lines),
            file=file,
            line=next((v.line for v in own if v.line is not None), None),
        )


def _shown(said: Sequence[Annotation]) -> Iterator[Annotation]:
    if len(said) <= _SHOWN:
        yield from said
        return
    first, rest = said[: _SHOWN - 1], said[_SHOWN - 1 :]
    yield from first
    message = f"and {len(rest)} more, in the summary:\n" + "\n".join(a.title for a in rest)
    yield replace(rest[0], title="merge gates", message=message, line=None)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
