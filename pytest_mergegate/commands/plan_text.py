"""What ``mergegate plan`` says, from the record that ``--json`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.report.reading import clean, plural, some
from pytest_mergegate.wording import number_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mergegate.report.types import (
        PlannedGroupRecord,
        PlannedMergeRecord,
        PlanRecord,
        ReplacementRecord,
    )

_BASIS = {
    "exact": "the merge itself, before it is written",
    "surrogate": "forecast by the nearest sum of task vectors",
    "states": "forecast from stored states",
}
_MOST_POINTS = 12


def plan_lines(plan: PlanRecord, name: str, experts: int, *, verbose: bool) -> Iterator[str]:
    """The whole plan."""
    yield headline(plan, name, experts)
    yield from _curve(plan)
    for number, group in enumerate(plan.groups, start=1):
        yield from _group(number, group, verbose=verbose)
    yield from _drop(plan, experts)
    for replacement in plan.replacements:
        yield from _replacement(replacement)


def headline(plan: PlanRecord, name: str, experts: int) -> str:
    """One line: how many merges do, if any."""
    merged = [group for group in plan.groups if len(group.experts) > 1]
    called = clean(name)
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


def _gap(at_least: int | None, found: int) -> str:
    if at_least is None or at_least < found:
        return f"at least {at_least or 1} are needed"
    return "no fewer do"


def _curve(plan: PlanRecord) -> Iterator[str]:
    """How far the worst-off expert's states must move, by number of models."""
    yield "models  distortion  groups (by hidden states alone, whatever the budget)"
    for point in plan.curve[:_MOST_POINTS]:
        groups = " | ".join(some(group) for group in point.groups if len(group) > 1) or "-"
        gap = point.at_least is not None and point.at_least < point.distortion
        floor = f"  (at least {number_text(point.at_least or 0.0)})" if gap else ""
        yield f"{point.models:6d}  {number_text(point.distortion):>10}  {groups}{floor}"
    if len(plan.curve) > _MOST_POINTS:
        yield f"        and so on to {plan.curve[-1].models} models"


def _group(number: int, group: PlannedGroupRecord, *, verbose: bool) -> Iterator[str]:
    names = ", ".join(map(clean, group.experts))
    if len(group.experts) == 1:
        yield f"model {number}: {names}, as it is"
        return
    yield f"model {number}: {names}"
    if not group.merges:
        yield f"  {group.status}: whatever the method"
        return
    yield f"  {_merge(group.merges[0])}"
    weights = group.merges[0].weights
    if len(set(weights.values())) > 1:
        listed = ", ".join(f"{clean(n)} {number_text(w)}" for n, w in weights.items())
        yield f"  weights: {listed}"
    yield from (f"  against: {clean(reason)}" for reason in group.against)
    for other in group.merges[1:] if verbose else _same_method(group):
        yield f"  instead, {_merge(other)}"


def _same_method(group: PlannedGroupRecord) -> Sequence[PlannedMergeRecord]:
    """What the same method does under other shares."""
    return [m for m in group.merges[1:] if m.method == group.merges[0].method]


def _merge(merge: PlannedMergeRecord) -> str:
    told = [f"{merge.status}"]
    if merge.expert is not None and merge.disagreement is not None:
        loss = f", loss {number_text(merge.loss)} %" if merge.loss is not None else ""
        told = [
            f"{merge.status}, {clean(merge.expert)} is worst off: disagreement "
            f"{number_text(merge.disagreement)}{loss}"
        ]
    if merge.distortion is not None:
        told.append(f"distortion {number_text(merge.distortion)}")
    told.append(_BASIS[merge.basis])
    return f"{clean(merge.method)}, {merge.shares} weights: {'; '.join(told)}"


def _drop(plan: PlanRecord, experts: int) -> Iterator[str]:
    if not plan.drop:
        return
    gap = (
        ""
        if (plan.drop_at_least or 0) >= len(plan.drop)
        else (f" (at least {plan.drop_at_least} must go)")
    )
    rest = experts - len(plan.drop)
    names = ", ".join(map(clean, plan.drop))
    yield f"or leave out {names}: the other {rest} are forecast to pass as one merge{gap}"


def _replacement(replacement: ReplacementRecord) -> Iterator[str]:
    how = "the forecast" if replacement.order == "forecast" else "MDS"
    yield f"in place of {clean(replacement.replaced)}, worst by {how}:"
    for stand in replacement.candidates:
        mds = "not defined" if stand.mds is None else number_text(stand.mds)
        merge = f"; {_merge(stand.pool.merges[0])}" if stand.pool.merges else ""
        yield f"  {clean(stand.name)}: {stand.pool.status}; MDS {mds}{merge}"
