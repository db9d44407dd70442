"""What has become worse since the baseline: the values that the ``*_increase`` budgets hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.stages.hidden import difficulty_intervals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.stages.hidden import HiddenResult

NOT_GIVEN = "it takes a baseline, and none was given (fix: name one with the option baseline)"
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6
"""What other batches, threads and processors make of the same states."""
Found = tuple[Value, str, str]
"""The value, where it comes from, and a word to add to the message."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """The pool as the baseline knew it: its experts alone, on their probes alone."""

    names: tuple[str, ...]
    distances: NDArray[np.float64]
    similarity: NDArray[np.float64] | None
    mds: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What the baseline says of a gate, as far as the gate can be compared with it."""

    reason: str | None = None
    """Why nothing can be compared; None where it can."""
    experts: frozenset[str] = frozenset()
    """Those that both have."""
    common: Common | None = None
    """What is relative to the pool, today; None where that cannot be compared."""
    common_reason: str = ""
    mds: Mapping[str, Value] = field(default_factory=dict)
    """By expert."""
    distances: Mapping[frozenset[str], float | None] = field(default_factory=dict)
    measured: Mapping[tuple[str, str], Value] = field(default_factory=dict)
    """The loss in percent, positive when worse, by method and expert."""
    certified: Mapping[tuple[str, str], Value] = field(default_factory=dict)
    inputs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """On how many a loss was certified."""


def moved(before: float | None, after: float | None) -> float:
    """How far a number has moved relative to its size, 0 within round-off; infinitely far where
    there is a number on one side only."""
    if before is None or after is None:
        return 0.0 if before is after else math.inf
    size = max(abs(before), abs(after))
    distance = abs(after - before)
    return distance / size if distance > _RELATIVE * size + _ABSOLUTE else 0.0


def common_states(hidden: HiddenResult, names: Sequence[str], spec: GateSpec) -> Common:
    """Distances, similarities and MDS of the experts ``names`` among themselves.

    A distance is a mean over the probes of every task, so those of the others are left out too.
    """
    states = hidden.states
    if set(names) == set(states.names):
        mds = {name: expert.mds for name, expert in hidden.experts.items()}
        return Common(
            names=states.names, distances=hidden.distances, similarity=hidden.similarity, mds=mds
        )
    kept = [k for k, name in enumerate(states.names) if name in names]
    own = [k for k, task in enumerate(states.tasks) if task in names]
    per_probe = metrics.pairwise_distances(
        [states.experts[k][kept] for k in own],
        normalize=spec.probes.normalize,
        base_states=[states.base[k] for k in own] if spec.probes.normalize == "base" else None,
    )
    tasks = [states.tasks[k] for k in own]
    return _compared([states.names[k] for k in kept], per_probe, tasks, spec)


def _compared(
    names: Sequence[str], per_probe: NDArray[np.float64], tasks: Sequence[str], spec: GateSpec
) -> Common:
    distances = per_probe.mean(axis=0)
    similarity = None
    try:
        similarity = metrics.hidden_similarity(distances)
        scores = metrics.merging_difficulty(similarity)
        ends = difficulty_intervals(per_probe, tasks, spec)
        found = [
            Value(number=float(score), interval=ends[i] if ends else None)
            for i, score in enumerate(scores)
        ]
    except metrics.Undefined as undefined:
        found = [Value.missing(undefined.reason)] * len(names)
    mds = dict(zip(names, found, strict=True))
    return Common(names=tuple(names), distances=distances, similarity=similarity, mds=mds)


def mds_increase(earlier: Earlier | None, expert: str, limit: float) -> Found:
    """By how much an MDS exceeds the baseline's, within the pool that the baseline knew."""
    if earlier is None or earlier.reason is not None:
        return _incomparable(earlier)
    if expert not in earlier.experts:
        return _new()
    if earlier.common is None:
        return Value.missing("baseline_other_pool"), "hidden", earlier.common_reason
    before, after = earlier.mds.get(expert), earlier.common.mds[expert]
    value, detail = _difference(before, after, "MDS")
    if value.number is not None and not value.number <= limit:
        detail += _moved_most(earlier, earlier.common, expert)
    return value, "hidden", detail


def loss_increase(
    earlier: Earlier | None, expert: str, method: str | None, loss: Value, basis: str, inputs: int
) -> Found:
    """By how many points a loss exceeds the baseline's of the same ``basis``, under one method.

    ``inputs`` are those on which a ``certified`` one rests.
    """
    if earlier is None or earlier.reason is not None:
        return _incomparable(earlier)
    if expert not in earlier.experts:
        return _new()
    at = (method or "", expert)
    if basis == "certified" and at in earlier.inputs and earlier.inputs[at] != inputs:
        said = f"certified on {inputs} inputs, and on {earlier.inputs[at]} in the baseline"
        return Value.missing("baseline_other_inputs"), basis, said
    before = (earlier.certified if basis == "certified" else earlier.measured).get(at)
    if before is None:
        said = f"the baseline has no {basis} loss of it under {method}"
        return Value.missing("baseline_without_loss"), basis, said
    value, detail = _difference(before, loss, f"{basis} loss", " %")
    return value, basis, detail


def _incomparable(earlier: Earlier | None) -> Found:
    if earlier is None or earlier.reason is None:
        return Value.missing("baseline_not_given"), "none", NOT_GIVEN
    return Value.missing("baseline_not_comparable"), "none", earlier.reason


def _new() -> Found:
    said = (
        "it is not in the baseline and has nothing to increase from (fix: set an absolute limit, "
        "such as max_loss)"
    )
    return Value.missing("baseline_lacks_expert"), "none", said


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


def _moved_most(earlier: Earlier, common: Common, expert: str) -> str:
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
