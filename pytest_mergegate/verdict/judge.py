"""The one place where a value meets a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.common.wording import verdict_text
from pytest_mergegate.gate.spec import INCREASES, STAGES, Stage, deepest
from pytest_mergegate.verdict.evidence import Status, compare
from pytest_mergegate.verdict.judged_values import find_value, needed_stage
from pytest_mergegate.verdict.unmerged import too_weak

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.common.values import Value
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.verdict.case import Case

_RANK: dict[Status, int] = {"pass": 0, "inconclusive": 1, "fail": 2}

_ALIKE = 0.02
"""Worst experts that differ by no larger a share of what they use up are no reason to choose."""

PER_METHOD = frozenset({"max_disagreement", "max_loss", "max_loss_increase"})
"""Budgets that a method of merging is judged by."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One value against one limit."""

    budget: str
    limit: float
    """NaN where ``auto@RATE`` could not be certified."""
    value: Value
    """In the budget's own direction: a loss is positive here."""
    expert: str
    method: str | None
    status: Status
    basis: str
    """Where the value comes from: see ``evidence.Found``."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All verdicts of a gate."""

    verdicts: tuple[Verdict, ...]
    status: Status
    method: str | None
    """The merge method that was judged under ``select: any``."""


def plan_depth(spec: GateSpec, pool: Pool, allowed: Stage | None) -> Stage:
    """The stage at which every budget is decided, or ``allowed`` where that is less deep."""
    wanted = deepest(
        *(
            needed_stage(budget, pool, expert)
            for budget in spec.effective_budget.limits
            for expert in pool.names
        )
    )
    return wanted if allowed is None else min(wanted, allowed, key=STAGES.index)


def judge(gate: Gate, case: Case, depth: Stage) -> Judgement:
    """Hold every value against its limit.

    ``select: any`` judges the method whose verdicts are best, then whose worst expert does best;
    ``select: all`` judges every method. A gate passes only if every verdict passes.
    """
    spec, limits = gate.spec, gate.spec.effective_budget.limits
    shared = [b for b in limits if b not in PER_METHOD]
    per_method = [b for b in limits if b in PER_METHOD]
    verdicts = [
        _verdict(b, limits[b], e, None, case, spec, depth)
        for b in shared
        for e in _held_to(b, limits, case)
    ]
    method: str | None = None
    if per_method:
        by_method: dict[str | None, list[Verdict]] = {
            label: [
                _verdict(b, limits[b], e, label, case, spec, depth)
                for b in per_method
                for e in _held_to(b, limits, case)
            ]
            for label in _merged_or_predicted(case) or (None,)
        }
        if spec.merge.select == "all":
            verdicts += [verdict for group in by_method.values() for verdict in group]
        else:
            method = _best(by_method)
            verdicts += by_method[method]
    return Judgement(
        verdicts=tuple(verdicts), status=worst([v.status for v in verdicts]), method=method
    )


def _held_to(budget: str, limits: Mapping[str, float], case: Case) -> tuple[str, ...]:
    """The experts that ``budget`` is about: an increase is not about those that the baseline lacks,
    where they are held to a limit that needs no baseline."""
    names, earlier = case.pool.names, case.earlier
    if budget not in INCREASES or earlier is None or earlier.reason or set(limits) <= INCREASES:
        return names
    return tuple(name for name in names if name in earlier.experts)


def _merged_or_predicted(case: Case) -> tuple[str, ...]:
    """The methods to judge: those merged, or all of them where any was predicted. One that could
    not be predicted is undecided, not left out."""
    merged = tuple(merge.method.label for merge in case.merges)
    if merged or not case.surrogates or case.hidden is None:
        return merged
    return tuple(case.hidden.scales)


def worst(statuses: Sequence[Status]) -> Status:
    """The worst of ``statuses``; no verdict at all is no pass."""
    return max(statuses, key=_RANK.__getitem__, default="inconclusive")


def _best(by_method: Mapping[str | None, Sequence[Verdict]]) -> str | None:
    """The method whose worst verdict is best: by status, then by how much of its limit the worst
    expert uses up, then, where that is nearly alike (two total losses), by how many are over it and
    by the mean."""
    rank = {label: _RANK[worst([v.status for v in group])] for label, group in by_method.items()}
    best = [label for label in by_method if rank[label] == min(rank.values())]
    used = {label: [_used(verdict) for verdict in by_method[label]] for label in best}
    most = {label: max(used[label], default=math.inf) for label in best}
    least = min(most.values())
    near = [label for label in best if most[label] <= least + _ALIKE * abs(least)]
    return min(near, key=lambda label: (_over(by_method[label]), _mean(used[label])))


def _used(verdict: Verdict) -> float:
    """How much of its limit a value uses up."""
    number, limit = verdict.value.number, verdict.limit
    if number is None or math.isnan(limit):
        return math.inf
    return number / limit if limit else number


def _over(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.status != "pass" for verdict in verdicts)


def _mean(used: Sequence[float]) -> float:
    return sum(used) / len(used) if used else math.inf


def _verdict(
    budget: str,
    limit: float,
    expert: str,
    method: str | None,
    case: Case,
    spec: GateSpec,
    depth: Stage,
) -> Verdict:
    found = find_value(budget, limit, expert, method, case, depth)
    status: Status = "inconclusive"
    if not (found.undecided or math.isnan(limit)):
        passing, failing = found.passing(spec.judge), found.failing(spec.judge)
        status = compare(limit, passing=passing, failing=failing)
    detail = found.detail
    lacking = found.vacuous or too_weak(expert, case)
    if status == "pass" and lacking:
        status, detail = "inconclusive", "; ".join(filter(None, (detail, lacking)))
    if spec.judge == "bound" and not found.exact:
        detail = "; ".join(filter(None, (detail, "judged on the interval's bad end")))
    automatic = case.automatic.get(budget)
    if automatic is not None:
        looked_at = found.inputs or case.probes_of(expert)
        if status == "pass" and looked_at < automatic.inputs:
            status = "inconclusive"
            detail = f"{detail}; the recorded scores are on more inputs than were looked at here"
        detail = "; ".join(filter(None, (automatic.text, detail.removeprefix("; "))))
    return Verdict(
        budget=budget,
        limit=limit,
        value=found.value,
        expert=expert,
        method=method,
        status=status,
        basis=found.basis,
        message=verdict_text(budget, limit, found.value, expert, method, status, detail),
    )
