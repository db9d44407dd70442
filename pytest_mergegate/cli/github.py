"""``mergegate github``: tell GitHub Actions what a check found; ``action.yml`` runs it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.files.writing import Unwritten, open_to_append, write_file

if TYPE_CHECKING:
    import argparse

    from pytest_mergegate.cli.github_actions import Outcome
    from pytest_mergegate.cli.parser import Commands
    from pytest_mergegate.report.types import Collected

_LONGEST = 4_000
"""Characters of what is wrong with a run."""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    github = commands.add_parser(
        "github",
        help="tell GitHub Actions what a check found",
        description="Writes the job's summary, annotations and outputs from the reports of a "
        "check, and what is to be said on the pull request. Exits 0 once that is done.",
    )
    github.add_argument("reports", type=Path, metavar="DIR", help="where mergegate-report.json is")
    github.add_argument("--exit-code", type=int, required=True, metavar="N", help="the check's")
    github.add_argument("--require-gates", type=int, default=1, metavar="N")
    github.add_argument("--changed-since", default="", metavar="REF", help="as given to the check")
    github.add_argument("--html", type=Path, metavar="PATH", help="where the HTML report is put")
    github.add_argument("--pull-request", default="", metavar="N", help="its number, if any")
    github.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Tell; returns the exit code. Raises UsageError."""
    from pytest_mergegate.cli import github_actions as github

    workspace = Path(_variable("GITHUB_WORKSPACE"))
    summary, outputs = (Path(_variable(f"GITHUB_{k}")) for k in ("STEP_SUMMARY", "OUTPUT"))
    number = chosen.pull_request
    if number and not (number.isascii() and number.isdecimal()):
        raise UsageError(f"--pull-request must be a number, not {number!r}")
    found, unreadable = _read(chosen.reports / "mergegate-report.json", workspace)
    came_to = github.outcome(
        found,
        exit_code=chosen.exit_code,
        required=chosen.require_gates,
        since=chosen.changed_since,
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
    values = _outputs(chosen, found, came_to, html)
    if chosen.pull_request:
        text = _text(found, came_to.status, said, github.COMMENT_LIMIT)
        values["comment-path"] = str(_comment(chosen, text))
    _append(outputs, github.output_text(values))
    return 0


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"{name} is not set: this command runs in GitHub Actions only")
    return value


def _read(path: Path, workspace: Path) -> tuple[Collected | None, str | None]:
    """The report, or what keeps it from being read; neither where there is none."""
    from pytest_mergegate.common.files.regular_files import read_own
    from pytest_mergegate.report.formats.json import read_reports

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


def _outputs(
    chosen: argparse.Namespace, found: Collected | None, came_to: Outcome, html: str
) -> dict[str, str]:
    from pytest_mergegate.cli.github_actions import worst_expert

    sarif = chosen.reports / "mergegate-report.sarif"
    # a check that was killed may have kept results too
    new = found is None or any(report.cache.misses for report in found.reports)
    return {
        "status": came_to.status,
        "exit-code": str(came_to.exit_code),
        "worst-expert": (worst_expert(found) if found else None) or "",
        "report-path": html,
        "sarif-path": str(sarif) if sarif.is_file() else "",
        "cache-changed": "true" if new else "false",
    }


def _text(found: Collected | None, status: str, said: str, limit: int) -> str:
    """The reports in Markdown, below what is to be ``said`` of the run itself."""
    from pytest_mergegate.report.formats.markdown import render

    # as code, so that no name in it is read as Markdown
    code = "\n".join(f"    {line}" for line in said[:_LONGEST].splitlines())
    top = f"**This run: {status}**\n\n{code}\n\n" if said else ""
    return top + (render(found, limit=limit - len(top.encode())) if found else "")


def _comment(chosen: argparse.Namespace, text: str) -> Path:
    folder: Path = chosen.reports / "comment"
    write_file(folder / "comment.md", text)
    write_file(folder / "pull-request.txt", f"{chosen.pull_request}\n")
    return folder


def _append(path: Path, text: str) -> None:
    with open_to_append(path) as file:
        file.write(text.encode())
