"""``mergegate github``: tell GitHub Actions what a check found; ``action.yml`` runs it."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from pytest_mergegate.cli import github_actions as github
from pytest_mergegate.cli.parser import Parser
from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.files.reading import read_own
from pytest_mergegate.common.files.writing import Unwritten, open_to_append, write_file
from pytest_mergegate.report.formats.json import read_reports
from pytest_mergegate.report.formats.markdown import render
from pytest_mergegate.report.types import Collected

_LONGEST = 4_000
"""Characters of what is wrong with a run."""


def add_to(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("reports", type=Path, metavar="DIR", help="where mergegate-report.json is")
    parser.add_argument("--exit-code", type=int, required=True, metavar="N", help="the check's")
    parser.add_argument("--require-gates", type=int, default=1, metavar="N")
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
    came_to = github.outcome(
        found, exit_code=chosen.exit_code, required=chosen.require_gates, since=chosen.changed_since
    )
    html, unput = _put_html(chosen)
    if unput is not None and came_to.exit_code == 0:
        came_to = replace(came_to, status="error", exit_code=1)
    told = [*github.annotate(found, workspace)] if found else []
    if problem := "; ".join(filter(None, (came_to.problem, unreadable, unput))):
        told.insert(0, github.Annotation(level="error", title="merge gates", message=problem))
    sys.stdout.write("".join(f"{annotation}\n" for annotation in told))
    said = problem or came_to.note or ""
    _append(summary, _text(found, came_to.status, said, github.SUMMARY_LIMIT))
    sarif = chosen.reports / "mergegate-report.sarif"
    # a check that was killed may have kept results too
    new = found is None or any(report.cache.misses for report in found.reports)
    values = {
        "status": came_to.status,
        "exit-code": str(came_to.exit_code),
        "worst-expert": (github.worst_expert(found) if found else None) or "",
        "report-path": html,
        "sarif-path": str(sarif) if sarif.is_file() else "",
        "cache-changed": "true" if new else "false",
    }
    if number:
        folder = chosen.reports / "comment"
        text = _text(found, came_to.status, said, github.COMMENT_LIMIT)
        write_file(folder / "comment.md", text)
        write_file(folder / "pull-request.txt", f"{number}\n")
        values["comment-path"] = str(folder)
    _append(outputs, github.output_text(values))
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
    code = "\n".join(f"    {line}" for line in said[:_LONGEST].splitlines())
    top = f"**This run: {status}**\n\n{code}\n\n" if said else ""
    return top + (render(found, limit=limit - len(top.encode())) if found else "")


def _append(path: Path, text: str) -> None:
    with open_to_append(path) as file:
        file.write(text.encode())
