"""``mergegate report``: a JSON report in other formats, without computing anything."""

import argparse
from pathlib import Path

from pydantic import ValidationError

from pytest_mergegate.cli import Parser
from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.files.reading import read_own
from pytest_mergegate.common.files.writing import Unwritten
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.option_table import Given, parse_report
from pytest_mergegate.gate.options import FORMATS
from pytest_mergegate.report.formats.json import read_reports
from pytest_mergegate.report.run_end import write_report

_FORMATS = tuple(name for name in FORMATS if name != "json")


def add_to(report: Parser) -> None:
    """Declare the arguments."""
    told = "what --report json:REPORT.json wrote"
    report.add_argument("report", type=Path, metavar="REPORT.json", help=told)
    for name in _FORMATS:
        report.add_argument(f"--{name}", metavar="OUT", help=f"write {name} there")


def run(chosen: argparse.Namespace) -> int:
    """Write the files; returns the exit code. Raises UsageError."""
    targets = [
        parse_report(Given(f"{name}:{path}", f"--{name}", Path.cwd()))
        for name in _FORMATS
        if (path := getattr(chosen, name)) is not None
    ]
    if not targets:
        asked = ", ".join(f"--{name}" for name in _FORMATS)
        raise UsageError(f"report: name a file to write, with one or more of {asked}")
    try:
        reports = read_reports(read_own(chosen.report).decode(), root=Path.cwd())
    except OSError as error:
        complain([f"{chosen.report} cannot be read ({error.strerror})"])
        return Exit.UNREADABLE
    except (ValueError, TypeError, RecursionError) as error:
        told = f"{chosen.report} is no report of pytest-mergegate ({_why(error)})"
        complain([f"{told}; write one with mergegate check --report json:FILE"])
        return Exit.UNREADABLE
    for target in targets:
        try:
            write_report(reports, target)
        except Unwritten as error:
            complain([str(error)])
            return Exit.NOT_PASSED
        say([f"wrote {target.path}"])
    return Exit.PASSED


def _why(error: Exception) -> str:
    """The first thing that is wrong, in one line."""
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
