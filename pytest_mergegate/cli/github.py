"""``mergegate github``: tell GitHub Actions what a check found; ``action.yml`` runs it.

Nothing here may be trusted to be free of line breaks, colons or percent signs: the names of experts
and branches come from pull requests.
"""

import argparse
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pytest_mergegate.cli import Parser
from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.files.documents import in_document
from pytest_mergegate.common.files.reading import read_own
from pytest_mergegate.common.files.writing import Unwritten, open_to_append, write_file
from pytest_mergegate.common.plain_text import clean, cut
from pytest_mergegate.common.statuses import Status
from pytest_mergegate.report.formats.advice import try_lines
from pytest_mergegate.report.formats.json import read_reports
from pytest_mergegate.report.formats.markdown import render
from pytest_mergegate.report.formats.reading import badness, beyond
from pytest_mergegate.report.types import Collected, Report

SUMMARY_LIMIT = 1_000_000
"""Bytes. GitHub takes less than 1 MiB of a step."""
COMMENT_LIMIT = 60_000
"""Bytes. GitHub takes 65,536 characters, and the workflow that posts adds a few lines."""
_SHOWN = 10
"""GitHub shows no more annotations of one level for a step, and drops the others silently."""
_MESSAGE_LIMIT = 4_000
"""Characters, also of what is wrong with a run."""


def add_to(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("reports", type=Path, metavar="DIR", help="where mergegate-report.json is")
    parser.add_argument("--exit-code", type=int, required=True, metavar="N", help="the check's")
    told = "how many gates the check had to find (default: 1)"
    parser.add_argument("--require-gates", type=int, default=1, metavar="N", help=told)
    parser.add_argument("--changed-since", default="", metavar="REF", help="as given to the check")
    parser.add_argument("--html", type=Path, metavar="PATH", help="where the HTML report is put")
    parser.add_argument("--pull-request", default="", metavar="N", help="its number, if any")


def run(chosen: argparse.Namespace) -> int:
    """Tell; returns the exit code. Raises UsageError."""
    workspace, summary, outputs = (
        Path(_variable(f"GITHUB_{name}")) for name in ("WORKSPACE", "STEP_SUMMARY", "OUTPUT")
    )
    number = chosen.pull_request
    if number and not (number.isascii() and number.isdecimal()):
        raise UsageError(f"--pull-request must be a number, not {number!r}")
    found, unreadable = _read(chosen.reports / "mergegate-report.json", workspace)
    came_to = outcome(
        found, exit_code=chosen.exit_code, required=chosen.require_gates, since=chosen.changed_since
    )
    html, unput = _put_html(chosen)
    if unput is not None and came_to.exit_code == 0:
        came_to = replace(came_to, status="error", exit_code=1)
    told = [*annotate(found, workspace)] if found else []
    if problem := "; ".join(filter(None, (came_to.problem, unreadable, unput))):
        told.insert(0, Annotation(level="error", title="merge gates", message=problem))
    sys.stdout.write("".join(f"{annotation}\n" for annotation in told))
    said = problem or came_to.note or ""
    _append(summary, _text(found, came_to.status, said, SUMMARY_LIMIT))
    sarif = chosen.reports / "mergegate-report.sarif"
    # a check that was killed may have kept results too
    new = found is None or any(report.cache.misses for report in found.reports)
    values = {
        "status": came_to.status,
        "exit-code": str(came_to.exit_code),
        "worst-expert": (worst_expert(found) if found else None) or "",
        "report-path": html,
        "sarif-path": str(sarif) if sarif.is_file() else "",
        "cache-changed": "true" if new else "false",
    }
    if number:
        folder = chosen.reports / "comment"
        text = _text(found, came_to.status, said, COMMENT_LIMIT)
        write_file(folder / "comment.md", text)
        write_file(folder / "pull-request.txt", f"{number}\n")
        values["comment-path"] = str(folder)
    _append(outputs, output_text(values))
    return 0


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"{name} is not set: this command runs in GitHub Actions only")
    return value


def _read(path: Path, workspace: Path) -> tuple[Collected | None, str | None]:
    """The report, or what keeps it from being read; neither where there is none."""
    try:
        return read_reports(read_own(path).decode(), workspace), None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        first, *_ = str(error).splitlines() or [type(error).__name__]
        return None, f"the report {path.name} cannot be read: {first}"


def _put_html(chosen: argparse.Namespace) -> tuple[str, str | None]:
    """Put the HTML report where it is wanted: the path, and what keeps it from there."""
    written = chosen.reports / "mergegate-report.html"
    if chosen.html is None or not written.is_file():
        return "", None
    try:
        write_file(chosen.html, written.read_bytes())
    except (Unwritten, OSError) as error:
        return "", f"the report {error}"
    return str(chosen.html), None


def _text(found: Collected | None, status: str, said: str, limit: int) -> str:
    """The reports in Markdown, below what is to be ``said`` of the run itself."""
    # as code, so that no name in it is read as Markdown
    code = "\n".join(f"    {line}" for line in said[:_MESSAGE_LIMIT].splitlines())
    top = f"**This run: {status}**\n\n{code}\n\n" if said else ""
    return top + (render(found, limit=limit - len(top.encode())) if found else "")


def _append(path: Path, text: str) -> None:
    with open_to_append(path) as file:
        file.write(text.encode())


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
    worst = None if only_preflight(found) else max(judged, key=badness, default=None)
    return worst.expert if worst else None


def output_text(outputs: Mapping[str, str]) -> str:
    """For ``GITHUB_OUTPUT``, with a delimiter that no value can foresee."""
    lines = []
    for name, value in outputs.items():
        delimiter = f"mergegate-{secrets.token_hex(16)}"
        lines.append(f"{name}<<{delimiter}\n{value}\n{delimiter}\n")
    return "".join(lines)


def _of_report(report: Report, workspace: Path) -> Iterator[Annotation]:
    path, root = in_document(Path(report.gate).resolve())[0], workspace.resolve()
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
    remedy = [*try_lines(report)]  # told once, with the worst
    for expert in dict.fromkeys(v.expert for v in sorted(undone, key=badness, reverse=True)):
        own = [v for v in undone if v.expert == expert]
        said = beyond(own) if any(v.status == "fail" for v in own) else "undecided"
        known = diagnoses.get(expert) if expert is not None else None
        lines = [*(v.message for v in own), *(known.facts if known else ()), *remedy]
        remedy = []
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
