"""What the formats for people read out of a report, so that they all say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.plain_text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.report.types import (
        ChangeRecord,
        FindingRecord,
        MergeRecord,
        Report,
        VerdictRecord,
    )

DIAGNOSIS = "MG401"
"""The finding that repeats a diagnosis."""
_NAMED = 8
"""Experts that a headline names; of more it tells how many."""
_RANKED = ("fail", "inconclusive", "pass")


def plural(count: int, what: str) -> str:
    """``1 expert``, ``2 experts``."""
    return f"{count} {what}{'s' * (count != 1)}"


def some(names: Iterable[str], most: int = _NAMED) -> str:
    """The names, or the first of them and how many more."""
    listed = [clean(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def status_of(report: Report, expert: str) -> str:
    """The worst verdict on ``expert``; ``-`` where there is none."""
    statuses = {v.status for v in report.verdicts if v.expert == expert}
    return next((status for status in _RANKED if status in statuses), "-")


def open_verdicts(report: Report) -> list[VerdictRecord]:
    """The verdicts that are no pass, by expert in the gate's order."""
    order = {name: place for place, name in enumerate(report.expert_names)}
    found = [verdict for verdict in report.verdicts if verdict.status != "pass"]
    return sorted(found, key=lambda verdict: order.get(verdict.expert or "", len(order)))


def headline(report: Report) -> str:
    """The outcome of a gate in one line, without its name and time."""
    under = f" under {clean(report.judged_method)}" if report.judged_method else ""
    of = f"of {plural(len(report.experts), 'expert')}"
    still_open = open_verdicts(report)
    failing = list(dict.fromkeys(v.expert or "" for v in still_open if v.status == "fail"))
    if report.status == "error":
        problems = sum(finding.severity == "error" for finding in report.findings)
        return f"{plural(problems, 'problem')}, nothing was judged"
    if failing:
        return f"{len(failing)} {of} over budget{under}: {some(failing)}"
    if still_open:
        more = f" (and {len(still_open) - 1} more)" if len(still_open) > 1 else ""
        return f"{clean(still_open[0].message)}{more}"
    if not report.verdicts:
        return "no budget was judged, and a gate without a verdict does not pass"
    if report.status != "pass":
        return f"the gate is {report.status}, whatever its verdicts say"
    closest = max(report.verdicts, key=_use)
    within = f"{plural(len(report.experts), 'expert')} within budget{under}"
    return f"{within}; closest: {clean(closest.message)}"


def merge_of(report: Report) -> MergeRecord | None:
    """The merge that the verdicts speak of, else the first."""
    judged = (m for m in report.merges if m.method == report.judged_method)
    return next(judged, report.merges[0] if report.merges else None)


def worst_of(merge: MergeRecord) -> str:
    """The worst that a merge does to an expert."""
    largest = max((expert.disagreement for expert in merge.experts), default=None)
    worst = "nothing was compared" if largest is None else f"largest disagreement {largest:.3g}"
    if merge.worst_loss is not None:
        worst += f", worst loss {0.0 - merge.worst_loss:.3g} %"
    return worst


def told_findings(report: Report) -> list[FindingRecord]:
    """The findings, but for those that repeat a diagnosis."""
    said = {diagnosis.expert for diagnosis in report.diagnoses}
    return [f for f in report.findings if f.code != DIAGNOSIS or f.expert not in said]


def finding_text(finding: FindingRecord) -> str:
    """One finding on one line."""
    about = f"{clean(finding.expert)}: " if finding.expert else ""
    fix = f" (fix: {clean(finding.fix)})" if finding.fix else ""
    return f"{finding.code} {about}{clean(finding.message)}{fix}"


def change_text(change: ChangeRecord) -> str:
    """What moved, from where to where, and which way that is; without the experts."""
    sign = -1.0 if change.quantity == "loss" else 1.0  # a loss is positive for people
    unit = " %" if change.quantity == "loss" else ""
    ends = (change.before, change.after)
    before, after = (None if end is None else sign * end + 0.0 for end in ends)
    what = {"mds": "MDS", "hidden_similarity": "hidden similarity", "distance": "distance"}
    under = f" under {clean(change.method)}" if change.method else ""
    moved = f"{_end(before)}{unit} → {_end(after)}{unit}"
    name = what.get(change.quantity, change.quantity)
    return f"{name}{under}: {moved} ({_direction(change.quantity, before, after)})"


def _end(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def _direction(quantity: str, before: float | None, after: float | None) -> str:
    if after is None:
        return "no longer known"
    if before is None:
        return "not known before"
    if after == before:
        return "unmoved"
    up, down = {
        "hidden_similarity": ("more alike", "less alike"),
        "distance": ("farther apart", "closer"),
    }.get(quantity, ("worse", "better"))
    return up if after > before else down


def _use(verdict: VerdictRecord) -> float:
    """How much of its limit a value uses up."""
    value = verdict.value or 0.0
    return value / verdict.limit if verdict.limit else value
