"""Reports as JSON, written and read."""

import json
import re
from dataclasses import replace
from pathlib import Path

from pytest_mergegate.report.types import Collected, Report

SCHEMA = "pytest-mergegate/reports/1"
_COMMAND = re.compile(r"#(?=#[a-z]*\[)", re.IGNORECASE)
"""Within a line, a command to a CI: a file of ours may be printed in one."""


def render(reports: Collected) -> str:
    """One report as it is, and several (or none) as a list under ``reports/1``."""
    if len(reports.reports) == 1 and reports.reports[0].status == reports.status:
        return _quoted(reports.reports[0].to_json())
    return render_all(reports)


def render_all(reports: Collected) -> str:
    """However many reports as one list."""
    data = {
        "schema": SCHEMA,
        "status": reports.status,
        "reports": [json.loads(report.to_json()) for report in reports.reports],
    }
    return _quoted(json.dumps(data, indent=2, allow_nan=False))


def _quoted(text: str) -> str:
    """JSON with what a CI would take for a command written in another way, which reads the same: a
    number sign stands in no JSON but within a string."""
    return _COMMAND.sub(r"\\u0023", text) + "\n"


def read_reports(text: str, root: Path | None = None) -> Collected:
    """What ``render`` wrote. Raises ValueError for anything else."""
    data = json.loads(text)
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError("no report of pytest-mergegate: it has no schema")
    if data["schema"] != SCHEMA:
        return Collected(reports=(Report.model_validate(data),), root=root)
    reports = tuple(Report.model_validate(report) for report in data.get("reports", ()))
    found = Collected(reports=reports, root=root)
    # where it says less than its reports do, some of its gates never ran
    return found if data.get("status") == found.status else replace(found, complete=False)
