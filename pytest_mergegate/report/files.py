"""Reports to files, in every format."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pytest_mergegate.common.files.writing import write_file

if TYPE_CHECKING:
    from pytest_mergegate.gate.settings import ReportTarget
    from pytest_mergegate.report.collected import Collected


def write_report(reports: Collected, target: ReportTarget) -> None:
    """Write the reports of a run as ``target`` asks.

    Raises Unwritten.
    """
    text = import_module(f"pytest_mergegate.report.formats.{target.format}").render(reports)
    write_file(target.path, text)
