"""How the experts of a gate that failed would be served unmerged, in words."""

from collections.abc import Iterator

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.report.types import Report


def unmerged_lines(report: Report, *, whole: bool) -> Iterator[str]:
    """Each way and, below it, what to type; without ``whole`` the first way alone. Empty for a
    gate that did not fail."""
    for way in report.serving if whole else report.serving[:1]:
        yield f"unmerged, by {way.tool}: {clean(way.text)}"
        yield from (f"  {clean(step)}" for step in way.steps)
