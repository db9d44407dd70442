"""A plan as the report and ``mergegate plan --json`` hold it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_mergegate.report.plan_records import (
    CurvePointRecord,
    PlannedGroupRecord,
    PlannedMergeRecord,
    PlanRecord,
    ReplacementRecord,
    StandInRecord,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_mergegate.metrics import CurvePoint
    from pytest_mergegate.planning.forecasts import GroupForecast, MergeForecast
    from pytest_mergegate.planning.from_states import Hint
    from pytest_mergegate.planning.plan import Plan, SuggestedReplacement


def plan_record(plan: Plan, replacements: Iterable[SuggestedReplacement] = ()) -> PlanRecord:
    """All of a plan."""
    return PlanRecord(
        curve=curve_records(plan.curve, plan.names),
        drop=plan.drop.names if plan.drop is not None else (),
        drop_at_least=plan.drop.at_least if plan.drop is not None else None,
        groups=tuple(map(group_record, plan.groups)),
        at_least=plan.at_least,
        replacements=tuple(map(_replacement, replacements)),
    )


def curve_records(
    curve: Iterable[CurvePoint], names: Sequence[str]
) -> tuple[CurvePointRecord, ...]:
    """The curve, its groups by name."""
    return tuple(
        CurvePointRecord(
            models=point.models,
            distortion=point.distortion,
            groups=tuple(tuple(names[k] for k in group) for group in point.groups),
            at_least=point.at_least,
        )
        for point in curve
    )


def group_record(group: GroupForecast) -> PlannedGroupRecord:
    """A group and every merge of it that was forecast."""
    return PlannedGroupRecord(
        experts=group.names,
        status=group.status,
        against=(*group.shared, *group.undecided),
        merges=tuple(map(_merge, group.merges)),
    )


def hinted_records(hint: Hint) -> tuple[PlannedGroupRecord, ...]:
    """The groups that stored states say would pass."""
    return tuple(
        PlannedGroupRecord(
            experts=group.names,
            status="pass",
            merges=(
                PlannedMergeRecord(
                    method=group.method,
                    shares="own",
                    weights=dict(group.scales),
                    basis="probes" if group.tried else "states",
                    status="pass",
                    expert=group.expert,
                    disagreement=group.disagreement,
                ),
            )
            if group.method is not None
            else (),
        )
        for group in hint.groups
    )


def _merge(merge: MergeForecast) -> PlannedMergeRecord:
    worst = merge.worst
    distortion = merge.shares.distortion
    return PlannedMergeRecord(
        method=merge.method.label,
        shares=merge.shares.kind,
        weights=dict(merge.method.weights),
        basis=merge.basis,
        status=merge.status,
        distortion=distortion if math.isfinite(distortion) else None,
        expert=worst.name if worst is not None else None,
        disagreement=worst.disagreement.number if worst is not None else None,
        loss=worst.loss.number if worst is not None else None,
        why=worst.why if worst is not None else "",
    )


def _replacement(replacement: SuggestedReplacement) -> ReplacementRecord:
    return ReplacementRecord(
        order=replacement.order,
        replaced=replacement.replaced,
        candidates=tuple(
            StandInRecord(
                name=one.name,
                mds=one.mds if one.mds is not None and math.isfinite(one.mds) else None,
                pool=group_record(one.forecast),
            )
            for one in replacement.candidates
        ),
    )
