"""What a terminal says of a gate beyond its table, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.report.formats.planned import instead
from pytest_mergegate.report.formats.reading import change_text, merge_of, some, worst_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.report.types import BaselineRecord, Report


def other_methods(report: Report) -> Iterator[str]:
    """How the methods fared that the verdicts do not speak of."""
    judged = merge_of(report)
    for merge in report.merges:
        if merge is not judged:
            yield f"under {clean(merge.method)}: {worst_of(merge)}"


def detail_lines(report: Report) -> Iterator[str]:
    """Baseline, plan, and where the time went."""
    if report.baseline is not None:
        yield from baseline_lines(report.baseline)
    if (line := instead(report)) is not None:
        yield f"plan: {line}; mergegate plan makes sure"
    if report.plan is not None:
        for point in report.plan.curve:
            groups = "; ".join(some(group) for group in point.groups)
            yield f"plan: {point.models} merged: distortion {point.distortion:.3g} ({groups})"
        if report.plan.drop:
            yield f"plan: leave out {some(report.plan.drop)}"
    if report.seconds:
        stages = ", ".join(f"{stage} {taken:.2f}" for stage, taken in report.seconds.items())
        yield f"seconds: {stages}; on {report.device}"
    yield f"cache: hits {report.cache.hits}, misses {report.cache.misses}"


_MOVED = 5
"""As many moved numbers are shown where not all are asked for."""


def baseline_lines(baseline: BaselineRecord, *, brief: bool = False) -> Iterator[str]:
    """What moved against the baseline; brief is the first few numbers of it."""
    path = clean(baseline.path)
    if not baseline.comparable:
        yield f"baseline {path}: not comparable: {clean(baseline.reason or 'no reason was given')}"
        return
    told = (("added", baseline.added), ("removed", baseline.removed), ("changed", baseline.changed))
    parts = [f"{what}: {some(names)}" for what, names in told if names]
    parts += [] if baseline.changes else ["no number moved"]
    yield f"baseline {path}: {'; '.join(parts) or 'these numbers moved'}"
    shown = baseline.changes[: _MOVED if brief else None]
    for change in shown:
        pair = f" and {clean(change.other)}" if change.other else ""
        yield f"  {clean(change.expert)}{pair}: {change_text(change)}"
    if len(shown) < len(baseline.changes):
        yield f"  and {len(baseline.changes) - len(shown)} more, shown with -v"
