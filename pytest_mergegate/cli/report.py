"""``mergegate report``: a JSON report in other formats, without computing anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.formats import FORMATS
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.option_table import Given, parse_report

if TYPE_CHECKING:
    import argparse

    from pytest_mergegate.cli.parser import Commands
    from pytest_mergegate.report.types import Collected

_FORMATS = tuple(name for name in FORMATS if name != "json")


def add_to(commands: Commands) -> None:
    """Declare the command."""
    text = "write a JSON report in other formats"
    report = commands.add_parser(
        "report", help=text, description=f"W{text[1:]}; exits 0 whatever the verdict."
    )
    report.add_argument(
        "report", type=Path, metavar="REPORT.json", help="what --report json:REPORT.json wrote"
    )
    for name in _FORMATS:
        report.add_argument(f"--{name}", metavar="OUT", help=f"write {name} there")
    report.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Write the files; returns the exit code. Raises UsageError."""
    from pytest_mergegate.common.files.writing import Unwritten
    from pytest_mergegate.report.run_end import write_report

    targets = [
        parse_report(Given(f"{name}:{path}", f"--{name}", Path.cwd()))
        for name in _FORMATS
        if (path := getattr(chosen, name)) is not None
    ]
    if not targets:
        asked = ", ".join(f"--{name}" for name in _FORMATS)
        raise UsageError(f"report: name a file to write, with one or more of {asked}")
    try:
        reports = _read(chosen.report)
    except OSError as error:
        return _unreadable(f"{chosen.report} cannot be read ({error.strerror})")
    except (ValueError, TypeError, RecursionError) as error:
        return _unreadable(
            f"{chosen.report} is no report of pytest-mergegate ({_why(error)}); "
            "write one with mergegate check --report json:FILE"
        )
    for target in targets:
        try:
            write_report(reports, target)
        except Unwritten as error:
            complain([str(error)])
            return Exit.NOT_PASSED
        say([f"wrote {target.path}"])
    return Exit.PASSED


def _read(path: Path) -> Collected:
    from pytest_mergegate.common.files.regular_files import read_own
    from pytest_mergegate.report.formats.json import read_reports

    return read_reports(read_own(path).decode(), root=Path.cwd())


def _why(error: Exception) -> str:
    """The first thing that is wrong, in one line."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = f"{where}: {first['msg']}" if where else first["msg"]
    elif isinstance(error, RecursionError):
        said = "nested too deeply"
    elif isinstance(error, UnicodeDecodeError):
        said = "not UTF-8"
    else:
        said = str(error)
    return " ".join(said.split())[:200]


def _unreadable(message: str) -> int:
    complain([message])
    return Exit.UNREADABLE
