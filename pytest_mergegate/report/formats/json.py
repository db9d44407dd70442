"""Reports as JSON, written and read."""

import json
from dataclasses import replace
from pathlib import Path

from pytest_mergegate.report.types import Collected, Report

SCHEMA = "pytest-mergegate/reports/1"


def render(reports: Collected) -> str:
    """One report as it is, and several (or none) as a list under ``reports/1``."""
    if len(reports.reports) == 1 and reports.reports[0].status == reports.status:
        return reports.reports[0].to_json() + "\n"
    return render_all(reports)


def render_all(reports: Collected) -> str:
    """However many reports as one list."""
    data = {
        "schema": SCHEMA,
        "status": reports.status,
        "reports": [json.loads(report.to_json()) for report in reports.reports],
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


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
