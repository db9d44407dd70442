"""Where the pages are that reports link to."""

from __future__ import annotations

DOCS = "https://pytest-mergegate.github.io/pytest-mergegate"
BUDGETS = f"{DOCS}/gate-file/#budgets"


def finding_page(code: str) -> str:
    """The page of a finding's code."""
    return f"{DOCS}/findings/{code}/"
