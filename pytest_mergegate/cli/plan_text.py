"""What ``mergegate plan`` says, from the record that ``--json`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.reading import plural, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mergegate.report.plan_records import (
        PlannedGroupRecord,
        PlannedMergeRecord,
        PlanRecord,
        ReplacementRecord,
    )

_HEAD = ("method", "weights", "forecast", "worst off", "disagreement", "loss %", "distortion", "by")
_MOST_POINTS = 12


def plan_lines(plan: PlanRecord, name: str, experts: int, *, verbose: bool) -> Iterator[str]:
    """The whole plan."""
    yield headline(plan, name, experts)
    yield from _curve(plan)
    for number, group in enumerate(plan.groups, start=1):
        yield ""
        yield from _group(number, group, verbose=verbose)
    if line := drop_line(plan, experts):
        yield from ("", line)
    for replacement in plan.replacements:
        yield ""
        yield from _replacement(replacement)


def headline(plan: PlanRecord, name: str, experts: int) -> str:
    """One line: how many merges do, if any."""
    called = clean(name)
    merged = [group for group in plan.groups if len(group.experts) > 1]
    if not merged:
        return f"NO PLAN {called}: no two of {plural(experts, 'expert')} are forecast to pass"
    if len(plan.groups) == 1:
        return f"PLAN {called}: all {experts} experts are forecast to pass as one merge"
    alone = len(plan.groups) - len(merged)
    parts = [plural(len(merged), "merge"), *([f"{alone} left as they are"] if alone else [])]
    return (
        f"PLAN {called}: {len(plan.groups)} models for {experts} experts "
        f"({', '.join(parts)}; {_gap(plan.at_least, len(plan.groups))})"
    )


def drop_line(plan: PlanRecord, experts: int) -> str:
    """What to leave out; empty where that was not found, or nothing has to go."""
    if not plan.drop:
        return ""
    few = plan.drop_at_least is None or plan.drop_at_least >= len(plan.drop)
    gap = "" if few else f" (at least {plan.drop_at_least} must go)"
    rest = experts - len(plan.drop)
    names = ", ".join(map(clean, plan.drop))
    return f"or leave out {names}: the other {rest} are forecast to pass as one merge{gap}"


def _gap(at_least: int | None, found: int) -> str:
    if at_least is None or at_least < found:
        return f"at least {at_least or 1} are needed"
    return "no fewer do"


def _curve(plan: PlanRecord) -> Iterator[str]:
    """How far the worst-off expert's states must move, by number of models."""
    yield "models  distortion  merged with each other (by hidden states, whatever the budget)"
    for point in plan.curve[:_MOST_POINTS]:
        groups = " | ".join(some(group) for group in point.groups if len(group) > 1) or "-"
        gap = point.at_least is not None and point.at_least < point.distortion
        floor = f"  (at least {number_text(point.at_least or 0.0)})" if gap else ""
        yield f"{point.models:6d}  {number_text(point.distortion):>10}  {groups}{floor}"
    if len(plan.curve) > _MOST_POINTS:
        yield f"        and so on, to {plan.curve[-1].models} models"


def _group(number: int, group: PlannedGroupRecord, *, verbose: bool) -> Iterator[str]:
    names = ", ".join(map(clean, group.experts))
    if len(group.experts) == 1:
        yield f"model {number}: {names}, as it is"
        return
    yield f"model {number}: {names}"
    yield from (f"  against: {clean(reason)}" for reason in group.against)
    if not group.merges:
        yield f"  {group.status}: the budget is not about merges, and no method was tried"
        return
    best = group.merges[0]
    same = [merge for merge in group.merges if merge.method == best.method]
    yield from _table([_HEAD, *map(_row, group.merges if verbose else same)])
    if len(set(best.weights.values())) > 1:
        listed = ", ".join(f"{clean(n)} {number_text(w)}" for n, w in best.weights.items())
        yield f"  weights: {listed}"


def _row(merge: PlannedMergeRecord) -> tuple[str, ...]:
    return (
        clean(merge.method),
        merge.shares,
        merge.status,
        "-" if merge.expert is None else clean(merge.expert),
        _number(merge.disagreement),
        _number(merge.loss),
        _number(merge.distortion),
        merge.basis,
    )


def _replacement(replacement: ReplacementRecord) -> Iterator[str]:
    by = "the forecast" if replacement.order == "forecast" else "MDS"
    yield f"in place of {clean(replacement.replaced)}, the worst by {by}; best candidates first:"
    rows: list[tuple[str, ...]] = [("candidate", "its MDS", *_HEAD[:-2])]
    for stand in replacement.candidates:
        merge = _row(stand.pool.merges[0])[:-2] if stand.pool.merges else ("-", "-", "-", "-")
        own = (clean(stand.name), _number(stand.mds))
        rows.append((*own, *merge[:2], stand.pool.status, *merge[3:]))
    yield from _table(rows)


def _number(number: float | None) -> str:
    return "-" if number is None else number_text(number)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[k]) for row in rows if k < len(row)) for k in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        yield f"  {'  '.join(cells)}".rstrip()
