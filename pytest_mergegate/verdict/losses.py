"""The evidence of a merging loss: measured on targets, else certified, else predicted."""

import math
from dataclasses import replace

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import joined, number_text
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.gate.spec import FEWEST
from pytest_mergegate.stages.evaluate import ExpertScores
from pytest_mergegate.stages.merge import MergeResult
from pytest_mergegate.stages.merge_versus_experts import MergedExpert
from pytest_mergegate.verdict.budgets import limit_on, share_within
from pytest_mergegate.verdict.evidence import (
    Asked,
    Case,
    Evidence,
    base_disagreement,
    compare,
    is_open,
)


def known_score(case: Case, expert: str) -> float:
    """The expert's score to which a certificate is relative: measured, given, or 1."""
    measured = case.scores.get(expert)
    if measured is not None and measured.of_outputs:
        return float(measured.expert.mean())
    return case.pool.spec.experts[expert].score or 1.0


def certified_loss(case: Case, merge: MergeResult, expert: str) -> Value:
    """The loss in percent (negative) that no metric in [0, 1] can fall below (THEORY 6), or none
    that differs by no more than the distance of two answers (THEORY 10)."""
    if not case.pool.spec.experts[expert].bounds_loss:
        return Value.missing("comparison_does_not_bound_the_metric")
    upper, known = merge.expert(expert).disagreement_upper, known_score(case, expert)
    return Value.computed(lambda: metrics.certified_loss(upper, known))


def _lacking_evidence(limit: float, expert: str, merge: MergeResult, case: Case) -> str | None:
    """What a certificate of a loss within ``limit`` percent lacks, if not agreement itself."""
    rate = min(1.0, share_within({limit_on("loss"): limit}, known_score(case, expert)))
    return inputs_text(merge.expert(expert), rate, case.pool.spec.level)


def loss(asked: Asked) -> Evidence | None:
    """What a merge has lost of the expert's score, in percent."""
    if not asked.case.pool.labelled(asked.expert):
        found = _certified(asked)
    elif (scored := _scored(asked)) is not None:
        found = _measured(asked, scored.loss.times(-1), scored.examples)
    else:
        return None
    return found and replace(found, base=base_loss(asked.expert, asked.case))


def predicted_loss(asked: Asked) -> Evidence | None:
    """The same of a merge that was not made; targets wait until they can be measured."""
    found = None if asked.case.pool.labelled(asked.expert) else _predicted(asked)
    return found and replace(found, base=base_loss(asked.expert, asked.case))


def gain_kept(asked: Asked) -> Evidence | None:
    """The share of what the expert adds to its base that a merge keeps; the base keeps nothing."""
    if not asked.case.pool.labelled(asked.expert):
        said = (
            "it is measured on examples with targets, and this expert has none (fix: add a target "
            "to its examples)"
        )
        return Evidence.missing("needs_targets", "none", said)
    scored = _scored(asked)
    if scored is None:
        return None
    return replace(_measured(asked, scored.gain_kept, scored.examples), base=Value(number=0.0))


def _scored(asked: Asked) -> ExpertScores | None:
    evaluation = next((e for e in asked.case.evaluations if e.method == asked.method), None)
    if evaluation is None:
        return None
    return next(scored for scored in evaluation.experts if scored.name == asked.expert)


def _measured(asked: Asked, value: Value, examples: int) -> Evidence:
    """A measured value, and how many examples would decide it."""
    detail = f"measured on {examples} examples"
    if examples < FEWEST:
        detail += f"; fewer than {FEWEST} pass on the interval's bad end"
    if is_open(value, asked.limit, at_least=asked.kind.at_least):
        needed = examples_needed(value, asked.limit, examples)
        detail += (
            "; it cannot be told apart from the limit by sampling"
            if needed is None
            else f"; the limit is inside the interval; about {needed} in all would likely decide it"
        )
    return Evidence(value=value, basis="measured", detail=detail, inputs=examples)


def _certified(asked: Asked) -> Evidence | None:
    """The loss without labels: certified within the limit, or else predicted.

    A bound that is over the limit decides nothing by itself: another answer may be as right.
    """
    merge, expert = asked.merge, asked.expert
    if merge is None:
        return None
    value, inputs = certified_loss(asked.case, merge, expert).times(-1), merge.expert(expert).inputs
    certified, spec = f"certified on {inputs} inputs", asked.case.pool.spec.experts[expert]
    if spec.distance is not None:
        certified += f", as far as {spec.distance} bounds the metric"
    bound = Evidence(value=value, basis="certified", detail=certified)
    if value.number is None or compare(bound, asked.limit) == "pass":
        return bound
    lacking = _lacking_evidence(asked.limit, expert, merge, asked.case)
    predicted = _predicted(asked)
    if predicted is None:
        detail = joined(bound.detail, lacking, _not_predicted(spec.comparison))
        return replace(bound, detail=detail, undecided=True)
    if not predicted.undecided:
        return predicted
    said = f"at most {number_text(value.number)} % is certified on {inputs} inputs"
    return replace(predicted, detail=joined(predicted.detail, said, lacking))


def _not_predicted(comparison: str) -> str | None:
    """Why past merges say nothing of answers that are compared in another way than theirs."""
    if comparison == EXACT:
        return None
    return (
        f"no loss is predicted: too few recorded merges are compared by {comparison}, and those "
        "that came with the package exactly"
    )


def _predicted(asked: Asked) -> Evidence | None:
    """The best prediction by past merges; None where there is none.

    It decides where its whole interval is on one side of the limit, but merges of another base or
    metric leave it open, and those that came with this package have seen other models than the
    team's, and a score on fewer inputs than those recorded says less than they do: on the word of
    either nothing passes.
    """
    wanted = (asked.expert, asked.method)
    told = (p for p in asked.case.predictions if (p.expert, p.method) == wanted and p.judges)
    prediction = next((p for p in told if p.loss.number is not None), None)
    if prediction is None:
        return None
    value = prediction.loss.times(-1)
    status = compare(value, asked.limit, "interval")
    doubted = prediction.other or (status == "pass" and not prediction.enough)
    return Evidence(
        value=value,
        basis="predicted",
        detail=prediction.detail + (f", {prediction.short}" if doubted else ""),
        undecided=status == "inconclusive" or (doubted if status == "pass" else prediction.other),
    )


def base_loss(expert: str, case: Case) -> Value:
    """The loss in percent, positive when worse, of the base with nothing merged: measured, or
    every answer that differs counted as lost."""
    measured = case.scores.get(expert)
    if measured is not None:
        base, own = float(measured.base.sum()), float(measured.expert.sum())
        return Value.computed(lambda: -metrics.merging_loss(base, own))
    differing = base_disagreement(expert, case)
    if differing.number is None:
        return differing
    return Value(number=100 * min(1.0, differing.number / known_score(case, expert)))


def examples_needed(value: Value, limit: float, examples: int) -> int | None:
    """On about how many examples the interval of a measured value would leave ``limit`` out.

    An interval shrinks with the square root of their number. None where the value is the limit.
    """
    assert value.number is not None
    assert value.interval is not None
    low, high = value.interval
    side = high - value.number if limit > value.number else value.number - low
    distance = abs(value.number - limit)
    ratio = side / distance if distance else math.inf
    if not examples * ratio**2 < 1e12:
        return None
    return max(examples + 1, math.ceil(examples * ratio**2))


def inputs_text(expert: MergedExpert, limit: float, confidence: float) -> str | None:
    """What a certificate lacks whose bound is over ``limit`` while the rate that was seen is below
    it; None where that is not so."""
    rate = expert.disagreement.number
    if rate is None or compare(expert.disagreement_upper, limit) != "fail":
        return None
    if expert.compared_by != EXACT:
        return None if compare(expert.most, limit) != "pass" else "more inputs may certify it"
    differing = round(rate * expert.inputs)
    try:
        needed = metrics.inputs_needed(
            differing + expert.cut, expert.inputs, limit, confidence=confidence
        )
    except metrics.Undefined:
        if not expert.cut or differing >= limit * expert.inputs:
            return None
        return (
            f"{expert.cut} of {expert.inputs} answers were cut, and count as different until "
            "probes.max_answer_tokens lets them end"
        )
    return f"at the rate of {differing + expert.cut} in {expert.inputs} it takes {needed} inputs"
