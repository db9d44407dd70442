"""``mergegate report``: a JSON report in other formats, without computing anything."""

import argparse
from pathlib import Path

from pytest_mergegate.cli import Parser
from pytest_mergegate.cli.output import reports_in
from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.files.writing import Unwritten
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.option_table import Given, parse_report
from pytest_mergegate.gate.options import FORMATS
from pytest_mergegate.report.run_end import write_report

_FORMATS = tuple(name for name in FORMATS if name != "json")


def add_to(report: Parser) -> None:
    """Declare the arguments."""
    told = "what --report json:REPORT.json wrote"
    report.add_argument("report", type=Path, metavar="REPORT.json", help=told)
    for name in _FORMATS:
        report.add_argument(f"--{name}", metavar="OUT", help=f"write {name} there")


def run(chosen: argparse.Namespace) -> int:
    """Write the files; returns the exit code. Raises UsageError, GateError."""
    targets = [
        parse_report(Given(f"{name}:{path}", f"--{name}", Path.cwd()))
        for name in _FORMATS
        if (path := getattr(chosen, name)) is not None
    ]
    if not targets:
        asked = ", ".join(f"--{name}" for name in _FORMATS)
        raise UsageError(f"report: name a file to write, with one or more of {asked}")
    reports = reports_in(chosen.report)
    for target in targets:
        try:
            write_report(reports, target)
        except Unwritten as error:
            complain([str(error)])
            return Exit.NOT_PASSED
        say([f"wrote {target.path}"])
    return Exit.PASSED
