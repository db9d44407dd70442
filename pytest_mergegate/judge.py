"""The one place where a value meets a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_mergegate import metrics
from pytest_mergegate.evidence import FEWEST_SCORED, examples_needed, inputs_text
from pytest_mergegate.increases import loss_increase, mds_increase
from pytest_mergegate.spec import BUDGET_STAGE, INCREASES, STAGES, Stage, deepest
from pytest_mergegate.values import Value
from pytest_mergegate.wording import number_text, verdict_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.gatefile import Gate
    from pytest_mergegate.increases import Earlier
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.spec import GateSpec
    from pytest_mergegate.stages.conflict import ConflictResult
    from pytest_mergegate.stages.evaluate import EvaluateResult, ReferenceScores
    from pytest_mergegate.stages.hidden import HiddenResult
    from pytest_mergegate.stages.merge import MergeResult
    from pytest_mergegate.stages.outcomes import Surrogate

Status = Literal["pass", "inconclusive", "fail"]
_RANK: dict[Status, int] = {"pass": 0, "inconclusive": 1, "fail": 2}

PER_METHOD = frozenset({"max_disagreement", "max_loss", "max_loss_increase"})
"""Budgets that a method of merging is judged by."""
_RATIOS = {
    "max_magnitude_change_ratio": "magnitude_change_ratio",
    "max_sign_change_ratio": "sign_change_ratio",
    "max_conflicting_magnitude_ratio": "conflicting_magnitude_ratio",
}


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the stages have found so far; None for a stage that did not run."""

    pool: Pool
    conflict: ConflictResult | None = None
    hidden: HiddenResult | None = None
    surrogates: tuple[Surrogate, ...] = ()
    merges: tuple[MergeResult, ...] = ()
    evaluations: tuple[EvaluateResult, ...] = ()
    scores: Mapping[str, ReferenceScores] | None = None
    """Scores of the experts by themselves; None where the last stage did not run."""
    earlier: Earlier | None = None
    """What the baseline says of the gate; None where no baseline was given."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One value against one limit."""

    budget: str
    limit: float
    value: Value
    """In the budget's own direction: a loss is positive here."""
    expert: str
    method: str | None
    status: Status
    basis: str
    """Where the value comes from: ``conflict``, ``sampled`` (rows of the weights), ``hidden``,
    ``predicted`` (by a surrogate of the merge), ``merged``, ``measured``, ``certified``."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All verdicts of a gate."""

    verdicts: tuple[Verdict, ...]
    status: Status
    method: str | None
    """The merge method that was judged under ``select: any``."""


def needed_stage(budget: str, pool: Pool, expert: str) -> Stage:
    """The stage that decides ``budget`` for one expert."""
    if budget in {"max_loss", "max_loss_increase"} and pool.labelled(expert):
        return "eval"
    return BUDGET_STAGE[budget]


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


def certified_loss(results: Results, spec: GateSpec, merge: MergeResult, expert: str) -> Value:
    """The loss in percent (negative) that no metric in [0, 1] can fall below (THEORY 6)."""
    upper, known = merge.expert(expert).disagreement_upper, known_score(results, spec, expert)
    return Value.computed(lambda: metrics.certified_loss(upper, known))


def known_score(results: Results, spec: GateSpec, expert: str) -> float:
    """The expert's score to which a certificate is relative: measured, given, or 1."""
    measured = results.scores.get(expert) if results.scores is not None else None
    if measured is not None and measured.of_outputs:
        return float(measured.expert.mean())
    return spec.experts[expert].score or 1.0


def judge(gate: Gate, results: Results, depth: Stage) -> Judgement:
    """Hold every value against its limit.

    ``select: any`` judges the method whose verdicts are best, then whose worst expert does best;
    ``select: all`` judges every method. A gate passes only if every verdict passes.
    """
    spec, limits = gate.spec, gate.spec.effective_budget.limits
    shared = [b for b in limits if b not in PER_METHOD]
    per_method = [b for b in limits if b in PER_METHOD]
    verdicts = [
        _verdict(b, limits[b], e, None, results, spec, depth)
        for b in shared
        for e in _held_to(b, limits, results)
    ]
    method: str | None = None
    if per_method:
        by_method: dict[str | None, list[Verdict]] = {
            label: [
                _verdict(b, limits[b], e, label, results, spec, depth)
                for b in per_method
                for e in _held_to(b, limits, results)
            ]
            for label in _merged_or_predicted(results) or (None,)
        }
        if spec.merge.select == "all":
            verdicts += [verdict for group in by_method.values() for verdict in group]
        else:
            method = min(by_method, key=lambda label: _order(by_method[label]))
            verdicts += by_method[method]
    return Judgement(
        verdicts=tuple(verdicts), status=worst([v.status for v in verdicts]), method=method
    )


def _held_to(budget: str, limits: Mapping[str, float], results: Results) -> tuple[str, ...]:
    """The experts that ``budget`` is about: an increase is not about those that the baseline lacks,
    where they are held to a limit that needs no baseline."""
    names, earlier = results.pool.names, results.earlier
    if budget not in INCREASES or earlier is None or earlier.reason or set(limits) <= INCREASES:
        return names
    return tuple(name for name in names if name in earlier.experts)


def _merged_or_predicted(results: Results) -> tuple[str, ...]:
    """The methods to judge: those merged, or all of them where any was predicted. One that could
    not be predicted is undecided, not left out."""
    merged = tuple(merge.method.label for merge in results.merges)
    if merged or not results.surrogates or results.hidden is None:
        return merged
    return tuple(results.hidden.scales)


def straddles(value: Value, limit: float) -> bool:
    """Whether more of the same evidence might change on which side of ``limit`` a value is."""
    if value.number is None or value.interval is None:
        return False
    low, high = value.interval
    return low <= limit and not high <= limit


def worst(statuses: Sequence[Status]) -> Status:
    """The worst of ``statuses``; no verdict at all is no pass."""
    return max(statuses, key=_RANK.__getitem__, default="inconclusive")


def _order(verdicts: Sequence[Verdict]) -> tuple[int, float, int, float]:
    """Sorts methods: by status, then by how much of its limit the worst expert uses up, then,
    where that ties (two total losses), by how many are over it and by the mean."""
    used = [
        math.inf
        if v.value.number is None
        else v.value.number / v.limit
        if v.limit
        else v.value.number
        for v in verdicts
    ]
    over = sum(v.status != "pass" for v in verdicts)
    mean = sum(used) / len(used) if used else math.inf
    return _RANK[worst([v.status for v in verdicts])], max(used, default=math.inf), over, mean


def _verdict(
    budget: str,
    limit: float,
    expert: str,
    method: str | None,
    results: Results,
    spec: GateSpec,
    depth: Stage,
) -> Verdict:
    needed = needed_stage(budget, results.pool, expert)
    predicted = next((s for s in results.surrogates if s.method == method), None)
    if budget == "max_disagreement" and depth == "hidden" and predicted is not None:
        compared = predicted.expert(expert)
        value, basis = compared.disagreement, "predicted"
        detail = f"predicted on {compared.inputs} inputs, no merge made"
    elif STAGES.index(needed) > STAGES.index(depth):
        value, basis = Value.missing(f"needs_stage_{needed}"), str(needed)
        detail = f"needs stage {needed}, and the gate may go no deeper than {depth}"
    else:
        value, basis, detail = _find(budget, limit, expert, method, results, spec)
    exact = basis in {"certified", "conflict"}
    status = _status(value, limit, spec.judge, exact=exact)
    if basis == "few":
        status, basis = "inconclusive", "measured"
    if spec.judge == "bound" and not exact:
        detail = "; ".join(filter(None, (detail, "judged on the interval's bad end")))
    return Verdict(
        budget=budget,
        limit=limit,
        value=value,
        expert=expert,
        method=method,
        status=status,
        basis=basis,
        message=verdict_text(budget, limit, value, expert, method, status, detail),
    )


def _status(value: Value, limit: float, mode: str, *, exact: bool) -> Status:
    """``exact`` values have no sampling error, or are bounds already."""
    number = value.number
    if mode == "bound" and not exact and number is not None:
        # an estimate without an interval cannot be judged on its bad end
        number = value.interval[1] if value.interval else None
    if number is None:
        return "inconclusive"
    return "fail" if not (number <= limit) else "pass"


def _find(
    budget: str,
    limit: float,
    expert: str,
    method: str | None,
    results: Results,
    spec: GateSpec,
) -> tuple[Value, str, str]:
    """The value, where it comes from, and a word to add to the message."""
    if budget in _RATIOS and results.conflict is not None:
        return _worst_pair(_RATIOS[budget], limit, expert, results.conflict, spec.judge)
    if budget == "max_mds" and results.hidden is not None:
        return results.hidden.experts[expert].mds, "hidden", ""
    if budget == "max_mds_increase" and results.hidden is not None:
        return mds_increase(results.earlier, expert, limit)
    if budget == "max_loss_increase":
        return _loss_increase(expert, method, results, spec)
    merge = next((m for m in results.merges if m.method.label == method), None)
    if budget == "max_disagreement" and merge is not None:
        found = merge.expert(expert)
        return found.disagreement, "merged", f"on {found.inputs} inputs"
    if budget == "max_loss" and results.pool.labelled(expert):
        evaluation = next((e for e in results.evaluations if e.method == method), None)
        if evaluation is not None:
            scored = next(e for e in evaluation.experts if e.name == expert)
            return _measured(_positive(scored.loss), limit, scored.examples)
    elif budget == "max_loss" and merge is not None:
        return _certified(limit, expert, merge, results, spec)
    return Value.missing("not_computed"), "none", "was not computed"


def _loss_increase(
    expert: str, method: str | None, results: Results, spec: GateSpec
) -> tuple[Value, str, str]:
    """The loss that ``max_loss`` would judge, less the baseline's; no limit is inside an interval
    that is not this one's."""
    loss, basis, detail = _find("max_loss", math.inf, expert, method, results, spec)
    if basis not in {"measured", "certified"}:
        missing = Value.missing("too_few_examples") if basis == "few" else loss
        return missing, "measured" if basis == "few" else basis, detail
    merge = next((m for m in results.merges if m.method.label == method), None)
    inputs = merge.expert(expert).inputs if merge is not None else 0
    value, basis, compared = loss_increase(results.earlier, expert, method, loss, basis, inputs)
    return value, basis, f"{compared}; {detail}" if value.number is not None else compared


def _measured(loss: Value, limit: float, examples: int) -> tuple[Value, str, str]:
    """A measured loss; its basis is ``few`` where it may not be judged."""
    if examples < FEWEST_SCORED:
        few = f"measured on {examples} examples, and it takes {FEWEST_SCORED} to judge"
        return loss, "few", few
    detail = f"measured on {examples} examples"
    if not straddles(loss, limit):
        return loss, "measured", detail
    needed = examples_needed(loss, limit, examples)
    if needed is None:
        more = "it cannot be told apart from the limit by sampling"
    else:
        more = f"the limit is inside the interval; about {needed} in all would likely decide it"
    return loss, "measured", f"{detail}; {more}"


def _certified(
    limit: float, expert: str, merge: MergeResult, results: Results, spec: GateSpec
) -> tuple[Value, str, str]:
    """A certified loss, and what it would take where only more evidence can help it."""
    loss = _positive(certified_loss(results, spec, merge, expert))
    detail = f"certified on {merge.expert(expert).inputs} inputs"
    if loss.number is not None and not loss.number <= limit:
        lacking = lacking_evidence(limit, expert, merge, results, spec)
        detail += f"; {lacking}" if lacking else ""
    return loss, "certified", detail


def lacking_evidence(
    limit: float, expert: str, merge: MergeResult, results: Results, spec: GateSpec
) -> str | None:
    """What a certificate of a loss within ``limit`` percent lacks, if not agreement itself."""
    rate = min(1.0, limit / 100 * known_score(results, spec, expert))
    return inputs_text(merge.expert(expert), rate, spec.certificate.level)


def _worst_pair(
    name: str, limit: float, expert: str, conflict: ConflictResult, mode: str
) -> tuple[Value, str, str]:
    """The largest ratio, or bad end of one under ``judge: bound``; an undefined one where none of
    the others is over the limit anyway."""
    pairs = [p for p in conflict.pairs if expert in (p.a, p.b)]
    values: list[tuple[Value, str]] = [
        (getattr(p, name), p.b if p.a == expert else p.a) for p in pairs
    ]
    ranked = sorted(values, key=lambda v: _bad_end(v[0], mode))
    lowest, highest = ranked[0], ranked[-1]
    undecided = lowest[0].number is None and not _bad_end(highest[0], mode) > limit
    value, partner = lowest if undecided else highest
    detail = f"with {partner}"
    if value.number is not None and _bad_end(value, mode) > limit:
        layer = conflict.worst_layer(name, expert, partner)
        detail += f", {number_text(layer[1])} in {layer[0]}" if layer else ""
    return value, "conflict" if value.standard_error is None else "sampled", detail


def _bad_end(ratio: Value, mode: str) -> float:
    """What meets the limit; -1, less than any ratio, where there is none."""
    if ratio.number is None:
        return -1.0
    return ratio.interval[1] if mode == "bound" and ratio.interval else ratio.number


def _positive(loss: Value) -> Value:
    """A loss of Eq. 1 (negative when worse) in the budget's direction (positive when worse)."""
    if loss.number is None:
        return loss
    interval = None if loss.interval is None else (-loss.interval[1], -loss.interval[0])
    return Value(number=-loss.number, interval=interval)
