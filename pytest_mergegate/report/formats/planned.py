"""What a report says would pass instead, in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.report.formats.reading import some

if TYPE_CHECKING:
    from pytest_mergegate.report.plan_records import PlannedGroupRecord
    from pytest_mergegate.report.types import Report

_BASIS = {
    "exact": "each was run",
    "merged": "each was made and run",
    "surrogate": "by the nearest sums of task vectors",
    "probes": "run on the probes",
    "states": "stored states, mixed",
}
_MOST = 4
"""Groups that are named."""


def instead(report: Report) -> str | None:
    """The groups that the plan says would pass, and on what that rests; None where it has none of
    two or more experts, or where it is the pool as it was."""
    groups = report.plan.groups if report.plan is not None else ()
    merged = [group for group in groups if len(group.experts) > 1]
    if not merged or len(groups) < 2:
        return None
    alone = [group.experts[0] for group in groups if len(group.experts) == 1]
    parts = [f"merge {_group(group)}" for group in merged[:_MOST]]
    parts += [f"{len(merged) - _MOST} more merges"] if len(merged) > _MOST else []
    parts += [f"{some(alone)} as {'it is' if len(alone) == 1 else 'they are'}"] if alone else []
    basis = {merge.basis for group in merged for merge in group.merges[:1]}
    rests = ", ".join(_BASIS[b] for b in sorted(basis)) or "hidden states"
    return f"{len(groups)} models in place of one: {'; '.join(parts)} (forecast: {rests})"


def _group(group: PlannedGroupRecord) -> str:
    under = f" under {clean(group.merges[0].method)}" if group.merges else ""
    return f"{some(group.experts)}{under}"
