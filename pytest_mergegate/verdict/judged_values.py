"""Where the value comes from that a budget holds against its limit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.gate.spec import BUDGET_STAGE, FEWEST, STAGES, Stage
from pytest_mergegate.verdict.evidence import Found, examples_needed, inputs_text
from pytest_mergegate.verdict.increases import loss_increase, mds_increase
from pytest_mergegate.verdict.unmerged import base_disagreement, base_loss, known_score, why_vacuous

if TYPE_CHECKING:
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.stages.conflict import ConflictResult
    from pytest_mergegate.stages.merge import MergeResult
    from pytest_mergegate.stages.merge_versus_experts import MergedExpert
    from pytest_mergegate.verdict.case import Case

_RATIOS = {
    "max_magnitude_change_ratio": "magnitude_change_ratio",
    "max_sign_change_ratio": "sign_change_ratio",
    "max_conflicting_magnitude_ratio": "conflicting_magnitude_ratio",
}


def needed_stage(budget: str, pool: Pool, expert: str) -> Stage:
    """The stage that decides ``budget`` for one expert."""
    asks = budget in {"max_loss", "max_loss_increase"}
    if (asks or pool.spec.experts[expert].min_score is not None) and pool.labelled(expert):
        return "eval"
    return BUDGET_STAGE[budget]


def find_value(
    budget: str, limit: float, expert: str, method: str | None, case: Case, depth: Stage
) -> Found:
    """What is held against ``limit``, after the stages down to ``depth``."""
    needed = needed_stage(budget, case.pool, expert)
    if STAGES.index(needed) <= STAGES.index(depth):
        return _find(budget, limit, expert, method, case)
    surrogate = case.surrogate(method)
    if budget == "max_disagreement" and depth == "hidden" and surrogate is not None:
        compared = surrogate.expert(expert)
        return _disagreement(compared, limit, case, "predicted", "no merge made")
    if budget == "max_loss" and needed == "merge":
        predicted = _predicted(limit, expert, method, case)
        if predicted is not None:
            return replace(predicted, vacuous=why_vacuous(base_loss(expert, case), limit, "loss"))
    return Found(
        value=Value.missing(f"needs_stage_{needed}"),
        basis=str(needed),
        detail=f"needs stage {needed}, and the gate may go no deeper than {depth}",
    )


def straddles(value: Value, limit: float) -> bool:
    """Whether more of the same evidence might change on which side of ``limit`` a value is."""
    if value.number is None:
        return False
    if value.interval is None:  # there is too little evidence for one
        return True
    low, high = value.interval
    return low <= limit and not high <= limit


def certified_loss(case: Case, merge: MergeResult, expert: str) -> Value:
    """The loss in percent (negative) that no metric in [0, 1] can fall below (THEORY 6)."""
    upper, known = merge.expert(expert).disagreement_upper, known_score(case, expert)
    return Value.computed(lambda: metrics.certified_loss(upper, known))


def lacking_evidence(limit: float, expert: str, merge: MergeResult, case: Case) -> str | None:
    """What a certificate of a loss within ``limit`` percent lacks, if not agreement itself."""
    rate = min(1.0, limit / 100 * known_score(case, expert))
    return inputs_text(merge.expert(expert), rate, case.pool.spec.level)


def _find(budget: str, limit: float, expert: str, method: str | None, case: Case) -> Found:
    if budget in _RATIOS and case.conflict is not None:
        mode = case.pool.spec.judge
        return _worst_pair(_RATIOS[budget], limit, expert, case.conflict, mode)
    if budget == "max_mds" and case.hidden is not None:
        return Found(value=case.hidden.experts[expert].mds, basis="hidden")
    if budget == "max_mds_increase" and case.hidden is not None:
        value, basis, detail = mds_increase(case.earlier, expert, limit)
        return Found(value=value, basis=basis, detail=detail)
    if budget == "max_loss_increase":
        return _loss_increase(limit, expert, method, case)
    merge = case.merge(method)
    if budget == "max_disagreement" and merge is not None:
        return _disagreement(merge.expert(expert), limit, case, "merged")
    if budget == "max_loss" and case.pool.labelled(expert):
        evaluation = next((e for e in case.evaluations if e.method == method), None)
        if evaluation is not None:
            scored = next(e for e in evaluation.experts if e.name == expert)
            found = _measured(_positive(scored.loss), limit, scored.examples)
            return replace(found, vacuous=why_vacuous(base_loss(expert, case), limit, "loss"))
    elif budget == "max_loss" and merge is not None:
        found = _unlabelled(limit, expert, merge, case)
        return replace(found, vacuous=why_vacuous(base_loss(expert, case), limit, "loss"))
    return Found(value=Value.missing("not_computed"), basis="none", detail="was not computed")


def _loss_increase(limit: float, expert: str, method: str | None, case: Case) -> Found:
    """The loss that ``max_loss`` would judge, less the baseline's; no limit is inside an interval
    that is not this one's."""
    loss = _find("max_loss", math.inf, expert, method, case)
    if loss.basis not in {"measured", "certified"}:
        return Found(value=loss.value, basis=loss.basis, detail=loss.detail)
    merge = case.merge(method)
    inputs = merge.expert(expert).inputs if merge is not None else 0
    value, basis, compared = loss_increase(
        case.earlier, expert, method, loss.value, loss.basis, inputs
    )
    grown, _, _ = loss_increase(
        case.earlier, expert, method, base_loss(expert, case), loss.basis, inputs
    )
    known = value.number is not None
    return Found(
        value=value,
        basis=basis,
        detail=f"{compared}; {loss.detail}" if known else compared,
        inputs=loss.inputs,
        vacuous=why_vacuous(grown, limit, "loss increase"),
    )


def _disagreement(
    compared: MergedExpert, limit: float, case: Case, basis: str, said: str = ""
) -> Found:
    """A share of inputs that are answered differently."""
    told = [f"{basis} on {compared.inputs} inputs" if said else f"on {compared.inputs} inputs"]
    if compared.cut:
        told.append(f"{compared.cut} answers were cut before they differed, and may go on to")
    if compared.inputs < FEWEST:
        bound = number_text(compared.disagreement_upper)
        told.append(f"fewer than {FEWEST} pass on their bound, {bound}")
    return Found(
        value=compared.disagreement,
        basis=basis,
        detail="; ".join(filter(None, [*told, said])),
        inputs=compared.inputs,
        cut=compared.cut,
        bound=compared.disagreement_upper,
        vacuous=why_vacuous(base_disagreement(compared.name, case), limit, "disagreement"),
    )


def _measured(loss: Value, limit: float, examples: int) -> Found:
    """A measured loss, and how many examples would decide it."""
    detail = f"measured on {examples} examples"
    if examples < FEWEST:
        detail += f"; fewer than {FEWEST} pass on the interval's bad end"
    if straddles(loss, limit):
        needed = examples_needed(loss, limit, examples)
        if needed is None:
            detail += "; it cannot be told apart from the limit by sampling"
        else:
            detail += (
                f"; the limit is inside the interval; about {needed} in all would likely decide it"
            )
    return Found(value=loss, basis="measured", detail=detail, inputs=examples)


def _unlabelled(limit: float, expert: str, merge: MergeResult, case: Case) -> Found:
    """The loss without labels: certified within the limit, or else predicted.

    A bound that is over the limit decides nothing by itself: another answer may be as right.
    """
    value = _positive(certified_loss(case, merge, expert))
    inputs = merge.expert(expert).inputs
    bound = Found(value=value, basis="certified", detail=f"certified on {inputs} inputs")
    if value.number is None or value.number <= limit:
        return bound
    lacking = lacking_evidence(limit, expert, merge, case)
    predicted = _predicted(limit, expert, merge.method.label, case)
    if predicted is None:
        detail = "; ".join(filter(None, (bound.detail, lacking)))
        return Found(value=value, basis="certified", detail=detail)
    if not predicted.undecided:
        return predicted
    said = f"at most {number_text(value.number)} % is certified on {inputs} inputs"
    return Found(
        value=predicted.value,
        basis=predicted.basis,
        detail="; ".join(filter(None, (predicted.detail, said, lacking))),
        undecided=True,
    )


def _predicted(limit: float, expert: str, method: str | None, case: Case) -> Found | None:
    """The best prediction by past merges; None where there is none.

    It decides where its whole interval is on one side of the limit, but merges of another base or
    metric leave it open, and those that came with this
    package have seen other models than the team's, and a score on fewer inputs than those recorded
    says less than they do: on the word of either nothing passes.
    """
    prediction = next(
        (
            p
            for p in case.predictions
            if (p.expert, p.method) == (expert, method) and p.judges and p.loss.number is not None
        ),
        None,
    )
    if prediction is None:
        return None
    value = _positive(prediction.loss)
    assert value.interval is not None
    low, high = value.interval
    passes, fails = high <= limit and prediction.enough, low > limit and not prediction.other
    return Found(
        value=value,
        basis="predicted",
        detail=prediction.detail
        + (f", {prediction.short}" if prediction.other or not (passes or high > limit) else ""),
        undecided=not (passes or fails),
    )


def _worst_pair(name: str, limit: float, expert: str, conflict: ConflictResult, mode: str) -> Found:
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
    basis = "conflict" if value.standard_error is None else "sampled"
    return Found(value=value, basis=basis, detail=detail)


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
