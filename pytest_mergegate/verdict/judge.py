"""Every value of a gate against its limit, and what they come to together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

from pytest_mergegate.common.statuses import STATUSES, Status, worst
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import distinct, joined, number_text, under
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.options import STAGES, Stage
from pytest_mergegate.verdict.budgets import (
    BUDGETS,
    BudgetKind,
    increases,
    judges_merges,
    set_limits,
)
from pytest_mergegate.verdict.evidence import Asked, Case, Evidence, compare

_ALIKE = 0.02
"""Worst experts that differ by no larger a share of what they use up are no reason to choose."""
_ROUNDING = 1e-9
"""Round-off must not tell the base from the limit."""

_WHY = {
    "needs_three_experts": "similarity is relative to the pool and needs at least three experts",
    "equidistant": "all experts are equally far apart, which says nothing about their conflicts",
    "expert_score_zero": "the expert itself scores zero on its examples",
    "expert_gains_nothing": "the expert itself scores no more than its base on these examples, so "
    "that there is no gain to keep",
    "expert_gain_unclear": "these examples do not show that the expert scores more than its base: "
    "it takes more of them, or an expert that adds more",
    "comparison_does_not_bound_the_metric": "the distance by which answers are compared does not "
    "bound what the metric may lose; compare them exactly, or give targets",
    "zero_task_vectors": "neither expert changes the base",
}
_TOLD = ("not_computed", "needs_stage", "needs_targets", "baseline_", "too_few")
"""Reasons that the evidence itself puts in words."""
_RELATION = {"pass": "within", "fail": "over", "inconclusive": "undecided against"}
_RELATION_AT_LEAST = {**_RELATION, "pass": "at least", "fail": "below"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One value against one limit."""

    budget: str
    limit: float
    """NaN where ``auto@RATE`` could not be certified."""
    value: Value
    """As the budget has it: a loss is positive here."""
    expert: str
    method: str | None
    status: Status
    basis: str
    """Where the value comes from: see ``Evidence``."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All verdicts of a gate."""

    verdicts: tuple[Verdict, ...]
    status: Status
    method: str | None
    """The merge method that was judged under ``select: any``."""


def judge(gate: Gate, case: Case, depth: Stage) -> Judgement:
    """Hold every value against its limit.

    ``select: any`` judges the method whose verdicts are best, then whose worst expert does best;
    ``select: all`` judges every method. A gate passes only if every verdict passes; no verdict at
    all is no pass.
    """
    limits = gate.spec.effective_budget.limits

    def verdicts_on(method: str | None, *, of_merges: bool) -> list[Verdict]:
        return [
            _verdict(
                Asked(
                    case=case,
                    kind=kind,
                    limit=limit,
                    expert=expert,
                    method=method,
                    mode=gate.spec.judge,
                    depth=depth,
                )
            )
            for kind, limit in set_limits(limits)
            if kind.of_merges is of_merges
            for expert in _held_to(kind, limits, case)
        ]

    verdicts, chosen = verdicts_on(None, of_merges=False), None
    if judges_merges(limits):
        methods = _merged_or_predicted(case) or (None,)
        by_method = {method: verdicts_on(method, of_merges=True) for method in methods}
        if gate.spec.merge.select == "all":
            verdicts += [verdict for group in by_method.values() for verdict in group]
        else:
            chosen = _best(by_method)
            verdicts += by_method[chosen]
    return Judgement(verdicts=tuple(verdicts), status=_worst(verdicts), method=chosen)


def _worst(verdicts: Sequence[Verdict]) -> Status:
    return worst(verdict.status for verdict in verdicts) if verdicts else "inconclusive"


def _held_to(kind: BudgetKind, limits: Mapping[str, float], case: Case) -> tuple[str, ...]:
    """The experts that a budget is about: an increase is not about those that the baseline lacks,
    where they are held to a limit that needs no baseline."""
    names, earlier = case.pool.names, case.earlier
    if not kind.from_baseline or earlier is None or earlier.reason:
        return names
    if len(increases(limits)) == len(limits):
        return names
    return tuple(name for name in names if name in earlier.experts)


def _merged_or_predicted(case: Case) -> tuple[str, ...]:
    """The methods to judge: those merged, or all of them where any was predicted. One that could
    not be predicted is undecided, not left out."""
    merged = tuple(merge.method.label for merge in case.merges)
    if merged or not case.surrogates or case.hidden is None:
        return merged
    return tuple(case.hidden.scales)


def _best(by_method: Mapping[str | None, Sequence[Verdict]]) -> str | None:
    """The method whose worst verdict is best: by status, then by how much of its limit the worst
    expert uses up, then, where that is nearly alike (two total losses), by how many are over it and
    by the mean."""
    rank = {label: STATUSES.index(_worst(group)) for label, group in by_method.items()}
    best = [label for label in by_method if rank[label] == min(rank.values())]
    used = {label: [_used(verdict) for verdict in by_method[label]] for label in best}
    most = {label: max(used[label], default=math.inf) for label in best}
    least = min(most.values())
    near = [label for label in best if most[label] <= least + _ALIKE * abs(least)]

    def spared(label: str | None) -> tuple[int, float]:
        over = sum(verdict.status != "pass" for verdict in by_method[label])
        return over, sum(used[label]) / len(used[label]) if used[label] else math.inf

    return min(near, key=spared)


def _used(verdict: Verdict) -> float:
    """How much of its limit a value uses up."""
    number, limit = verdict.value.number, verdict.limit
    if number is None or math.isnan(limit):
        return math.inf
    return BUDGETS[verdict.budget].used(number, limit)


def _verdict(asked: Asked) -> Verdict:
    kind, limit, expert, case = asked.kind, asked.limit, asked.expert, asked.case
    found = _found(asked)
    status = compare(found, limit, asked.mode, at_least=kind.at_least)
    detail = found.detail
    lacking = _too_weak(expert, case)
    if kind.of_merges:
        base = found.base or Value.missing("base_not_compared")
        lacking = why_vacuous(base, kind, limit) or lacking
    if status == "pass" and lacking:
        status, detail = "inconclusive", joined(detail, lacking)
    if asked.mode == "bound" and not found.exact:
        detail = joined(detail, "judged on the interval's bad end")
    if (automatic := case.automatic.get(kind.name)) is not None:
        if status == "pass" and (found.inputs or case.probes_of(expert)) < automatic.inputs:
            status = "inconclusive"
            fewer = "the recorded scores are on more inputs than were looked at here"
            detail = joined(detail, fewer)
        detail = joined(automatic.text, detail)
    return Verdict(
        budget=kind.name,
        limit=limit,
        value=found.value,
        expert=expert,
        method=asked.method,
        status=status,
        basis=found.basis,
        message=_message(asked, found.value, status, detail),
    )


def _found(asked: Asked) -> Evidence:
    """What there is to hold against the limit, or what is missing."""
    if not asked.kind.of_merges and len(asked.case.pool.names) == 1:
        said = "it is a number between experts, and the gate has one"
        return Evidence.missing("not_computed_of_one", "none", said)
    needed = asked.kind.needs(asked.case.pool, asked.expert)
    ran = STAGES.index(needed) <= STAGES.index(asked.depth)
    named = asked.kind.find if ran else asked.kind.forecast
    if named is not None:
        find = resolve_name(f"{__package__}.{named}") if isinstance(named, str) else named
        found: Evidence | None = find(asked)
        if found is not None:
            return found
    if ran:
        return Evidence.missing("not_computed", "none", "was not computed")
    deeper = f"needs stage {needed}, and the gate may go no deeper than {asked.depth}"
    return Evidence.missing(f"needs_stage_{needed}", needed, deeper)


def _too_weak(expert: str, case: Case) -> str:
    """What to say of an expert that is not known to reach its own ``min_score``."""
    spec = case.pool.spec.experts[expert]
    if spec.min_score is None:
        return ""
    measured = case.scores.get(expert)
    score = spec.score if measured is None else float(measured.expert.mean())
    if score is not None and score >= spec.min_score:
        return ""
    own = "is not known" if score is None else f"is {number_text(score)}"
    return f"its own score {own}, and min_score asks for {number_text(spec.min_score)}"


def why_vacuous(base: Value, kind: BudgetKind, limit: float) -> str:
    """What to say where the base, with nothing merged, would pass too (THEORY 9)."""
    if base.number is None:
        why = (base.reason or "unknown").replace("_", " ")
        return f"whether the base by itself would pass is not known ({why})"
    nearly = limit - _ROUNDING if kind.at_least else limit + _ROUNDING
    if compare(base, nearly, at_least=kind.at_least) != "pass":
        return ""
    return (
        f"the base by itself has a {kind.words} of {number_text(base.number)}, within the limit "
        "too: a pass would say nothing of the merge"
    )


def _message(asked: Asked, value: Value, status: Status, detail: str) -> str:
    """One line: the value with its interval, the limit, and how they stand."""
    kind, limit, expert = asked.kind, asked.limit, asked.expert
    where = f" {under(asked.method)}" if asked.method else ""
    if value.number is None:
        reason = value.reason or ""
        why = detail
        if not reason.startswith(_TOLD):
            why = _WHY.get(reason, reason.replace("_", " "))
        return f"{expert}: {kind.words}{where} undecided: {why}"
    if math.isnan(limit):
        return f"{expert}: {kind.words} {number_text(value.number)}{where} undecided: {detail}"
    shown, bound = distinct(value.number, limit)
    interval = ""
    if value.interval:
        low, high = (number_text(end) for end in value.interval)
        interval = f" [{low}, {high}]"
    relation = (_RELATION_AT_LEAST if kind.at_least else _RELATION)[status]
    held = f"{shown}{kind.unit}{interval} {relation} {bound}{kind.unit}"
    tail = f" ({detail})" if detail else ""
    return f"{expert}: {kind.words} {held}{where}{tail}"
