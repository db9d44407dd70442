"""The reports of one run, as they are written and read together."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_mergegate.common.statuses import Status, worst
from pytest_mergegate.report.types import Report

SCHEMA = "pytest-mergegate/reports/1"


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Every report of a run."""

    reports: tuple[Report, ...]
    complete: bool = True
    """Whether every gate that was asked for has reported."""
    root: Path | None = None
    """Where the paths that people are shown start."""

    @property
    def status(self) -> Status:
        """The worst of them; where gates are missing, no pass whatever the others say."""
        at_best: Status = "pass" if self.complete and self.reports else "inconclusive"
        return worst((report.status for report in self.reports), at_best)

    def name(self, report: Report) -> str:
        """The gate of ``report`` as people are shown it: relative to the root, with slashes."""
        path = Path(report.gate)
        if self.root is not None and path.is_relative_to(self.root):
            path = path.relative_to(self.root)
        return path.as_posix()


def read_reports(text: str, root: Path | None = None) -> Collected:
    """What the format ``json`` wrote. Raises ValueError for anything else."""
    data = json.loads(text)
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError("no report of pytest-mergegate: it has no schema")
    if data["schema"] != SCHEMA:
        return Collected(reports=(Report.model_validate(data),), root=root)
    reports = tuple(Report.model_validate(report) for report in data.get("reports", ()))
    found = Collected(reports=reports, root=root)
    # where it says less than its reports do, some of its gates never ran
    return found if data.get("status") == found.status else replace(found, complete=False)


def reports_json(reports: Collected) -> str:
    """Several reports, or none, as one document."""
    data = {
        "schema": SCHEMA,
        "status": reports.status,
        "reports": [json.loads(report.to_json()) for report in reports.reports],
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"
