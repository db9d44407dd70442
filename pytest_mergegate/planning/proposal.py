"""The gate of one group of a plan: its experts, the proposed method and its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_mergegate.planning.shares import group_gate

if TYPE_CHECKING:
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.planning.outlook import GroupOutlook, MergeOutlook


def proposed_gate(gate: Gate, group: GroupOutlook) -> Gate:
    """The gate whose verdict the forecast of ``group`` was of.

    Under ``select: any`` with the proposed method alone, so that the merge that is gated is the one
    that is shipped.
    """
    best = group.best
    part = group_gate(gate, group.names)
    if best is None:
        return part
    changes: dict[str, object] = {"weights": _weights(gate, best, group)}
    if gate.spec.merge.select == "any":
        changes["methods"] = (part.spec.merge.method_called(best.method.label),)
    merge = part.spec.merge.model_copy(update=changes)
    return replace(part, spec=part.spec.model_copy(update={"merge": merge}))


def _weights(gate: Gate, best: MergeOutlook, group: GroupOutlook) -> str | dict[str, float]:
    """As ``merge.weights`` has them: what each method multiplies by a weight of its own."""
    given = gate.spec.merge.weights
    if best.shares.kind == "uniform" or not best.method.is_weighted:
        return "uniform"
    if isinstance(given, dict):
        return {name: given[name] for name in group.names}
    # an average divides by their sum; a sum of task vectors takes each at full scale
    return {name: round(len(group.names) * s, 6) for name, s in best.shares.shares.items()}
