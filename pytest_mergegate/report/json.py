"""Reports as a JSON file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_mergegate.report.types import Report

_WORST = ("pass", "inconclusive", "fail", "error")


def write_json(reports: Sequence[Report], path: Path, *, complete: bool = True) -> None:
    """Write one report as it is, and several (or none) as a list under ``reports/1``.

    Where some gates never ran (``complete=False``) the whole does not pass, whatever the others
    say. The file is replaced in one step, so that a reader never sees half of it. Raises OSError.
    """
    at_best = "pass" if complete and reports else "inconclusive"
    status = max((at_best, *(report.status for report in reports)), key=_WORST.index)
    if len(reports) == 1 and reports[0].status == status:
        text = reports[0].to_json()
    else:
        data = {
            "schema": "pytest-mergegate/reports/1",
            "status": status,
            "reports": [json.loads(report.to_json()) for report in reports],
        }
        text = json.dumps(data, indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
