"""Reports as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_mergegate.report.collected import SCHEMA

if TYPE_CHECKING:
    from pytest_mergegate.report.collected import Collected


def render(reports: Collected) -> str:
    """One report as it is, and several (or none) as a list under ``reports/1``."""
    if len(reports.reports) == 1 and reports.reports[0].status == reports.status:
        return reports.reports[0].to_json() + "\n"
    data = {
        "schema": SCHEMA,
        "status": reports.status,
        "reports": [json.loads(report.to_json()) for report in reports.reports],
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"
