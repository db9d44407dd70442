"""Reports as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.report.collected import reports_json

if TYPE_CHECKING:
    from pytest_mergegate.report.collected import Collected


def render(reports: Collected) -> str:
    """One report as it is, and several (or none) as a list under ``reports/1``."""
    if len(reports.reports) == 1 and reports.reports[0].status == reports.status:
        return reports.reports[0].to_json() + "\n"
    return reports_json(reports)
