"""Reports to files, in every format."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.collected import Collected
    from pytest_mergegate.settings import ReportTarget


def write_report(reports: Collected, target: ReportTarget) -> None:
    """Write the reports of a run as ``target`` asks.

    A reader never sees half of a file. Raises OSError.
    """
    text = import_module(f"pytest_mergegate.report.{target.format}").render(reports)
    replace_file(target.path, text)


def replace_file(path: Path, text: str) -> None:
    """Write a file in one step. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
