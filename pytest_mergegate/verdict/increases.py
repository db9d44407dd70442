"""What has become worse since the baseline: the evidence of the ``*_increase`` budgets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import number_text, under
from pytest_mergegate.stages.pool_parts import PoolPart
from pytest_mergegate.verdict.evidence import Asked, Evidence, compare
from pytest_mergegate.verdict.losses import base_loss, loss

NOT_GIVEN = "it takes a baseline, and none was given (fix: name one with the option baseline)"
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6
"""What other batches, threads and processors make of the same states."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What the baseline says of a gate, as far as the gate can be compared with it."""

    reason: str | None = None
    """Why nothing can be compared; None where it can."""
    experts: frozenset[str] = frozenset()
    """Those that both have."""
    common: PoolPart | None = None
    """What is relative to the pool, today, in the pool as the baseline knew it; None where that
    cannot be compared."""
    common_reason: str = ""
    mds: Mapping[str, Value] = field(default_factory=dict)
    """By expert."""
    distances: Mapping[frozenset[str], float | None] = field(default_factory=dict)
    measured: Mapping[tuple[str, str], Value] = field(default_factory=dict)
    """The loss in percent, positive when worse, by method and expert."""
    certified: Mapping[tuple[str, str], Value] = field(default_factory=dict)
    inputs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """On how many a loss was certified."""
    scored: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """On how many one was measured: of an expert that failed early, on few."""


def moved(before: float | None, after: float | None) -> float:
    """How far a number has moved relative to its size, 0 within round-off; infinitely far where
    there is a number on one side only."""
    if before is None or after is None:
        return 0.0 if before is after else math.inf
    size = max(abs(before), abs(after))
    distance = abs(after - before)
    return distance / size if distance > _RELATIVE * size + _ABSOLUTE else 0.0


def mds_increase(asked: Asked) -> Evidence | None:
    """By how much an MDS exceeds the baseline's, within the pool that the baseline knew; where the
    limit is exceeded, with the distance that moved most."""
    earlier, expert = asked.case.earlier, asked.expert
    if asked.case.hidden is None:
        return None
    if (lacking := _incomparable(earlier, expert)) is not None:
        return lacking
    assert earlier is not None
    if earlier.common is None:
        return Evidence.missing("baseline_other_pool", "hidden", earlier.common_reason)
    before, after = earlier.mds.get(expert), earlier.common.mds[expert]
    value, detail = _difference(before, after, "MDS")
    if compare(value, asked.limit) == "fail":
        detail += _moved_most(earlier, earlier.common, expert)
    return Evidence(value=value, basis="hidden", detail=detail)


def loss_increase(asked: Asked) -> Evidence | None:
    """By how much the loss that would be judged exceeds the baseline's, and the base's would; no
    limit is inside an interval that is not this one's."""
    found = loss(replace(asked, limit=math.inf))
    if found is None or found.basis not in {"measured", "certified"}:
        return found
    merge, expert, earlier = asked.merge, asked.expert, asked.case.earlier
    inputs = merge.expert(expert).inputs if merge is not None else 0
    if found.basis == "measured":
        inputs = found.inputs or 0
    grown, of_base = (
        increase_of_loss(earlier, expert, asked.method, value, found.basis, inputs)
        for value in (found.value, base_loss(expert, asked.case))
    )
    known = grown.value.number is not None
    detail = f"{grown.detail}; {found.detail}" if known else grown.detail
    return replace(grown, detail=detail, inputs=found.inputs, base=of_base.value)


def increase_of_loss(
    earlier: Earlier | None, expert: str, method: str | None, now: Value, basis: str, inputs: int
) -> Evidence:
    """By how many points a loss exceeds the baseline's of the same ``basis``, under one method.

    ``inputs`` are those on which it rests.
    """
    if (lacking := _incomparable(earlier, expert)) is not None:
        return lacking
    assert earlier is not None
    at = (method or "", expert)
    rested = (earlier.inputs if basis == "certified" else earlier.scored).get(at)
    if rested is not None and rested != inputs:
        said = f"{basis} on {inputs} inputs, and on {rested} in the baseline"
        return Evidence.missing("baseline_other_inputs", basis, said)
    before = (earlier.certified if basis == "certified" else earlier.measured).get(at)
    if before is None:
        said = f"the baseline has no {basis} loss of it {under(method or '')}"
        return Evidence.missing("baseline_without_loss", basis, said)
    value, detail = _difference(before, now, f"{basis} loss", " %")
    return Evidence(value=value, basis=basis, detail=detail)


def _incomparable(earlier: Earlier | None, expert: str) -> Evidence | None:
    if earlier is None:
        return Evidence.missing("baseline_not_given", "none", NOT_GIVEN)
    if earlier.reason is not None:
        return Evidence.missing("baseline_not_comparable", "none", earlier.reason)
    if expert in earlier.experts:
        return None
    said = (
        "it is not in the baseline and has nothing to increase from (fix: set an absolute limit, "
        "such as max_loss)"
    )
    return Evidence.missing("baseline_lacks_expert", "none", said)


def _difference(before: Value | None, after: Value, what: str, unit: str = "") -> tuple[Value, str]:
    """``after`` less ``before``; its interval takes the far ends of both, so it is a wide one."""
    if after.number is None:
        return after, ""
    if before is None or before.number is None:
        why = ((before and before.reason) or "undefined").replace("_", " ")
        return Value.missing("baseline_undefined"), f"the baseline has no {what} of it ({why})"
    if math.isinf(before.number) or math.isinf(after.number):
        when = "is infinite" if math.isinf(after.number) else "was infinite in the baseline"
        return Value.missing("baseline_infinite"), f"its {what} {when}"
    ends = None
    if before.interval and after.interval:
        ends = (after.interval[0] - before.interval[1], after.interval[1] - before.interval[0])
    shown = f"{what} {number_text(after.number)}{unit}, {number_text(before.number)}{unit} before"
    grown = after.number - before.number if moved(before.number, after.number) else 0.0
    return Value(number=grown, interval=ends), shown


def _moved_most(earlier: Earlier, common: PoolPart, expert: str) -> str:
    """The partner to which the distance has changed most, in the scale of HiddenSim."""
    i = common.names.index(expert)
    moves = {
        name: (before, float(common.distances[i, j]))
        for j, name in enumerate(common.names)
        if j != i and (before := earlier.distances.get(frozenset({expert, name}))) is not None
    }
    if not moves:
        return ""
    name = max(moves, key=lambda other: abs(moves[other][1] - moves[other][0]))
    then, now = (number_text(end) for end in moves[name])
    return f"; moved most: the distance to {name}, {then} to {now}"
