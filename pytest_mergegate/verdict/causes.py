"""The likely cause of a failure: what has to be taken away for an expert to keep its answers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.engine.running.trials import Trials
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.gate.spec import DEFAULT_MAX_DISAGREEMENT
from pytest_mergegate.stages.hidden import HiddenResult
from pytest_mergegate.verdict.budgets import share_within
from pytest_mergegate.verdict.evidence import Case, compare
from pytest_mergegate.verdict.judge import Judgement, Verdict

_INTERFERERS = 3
"""So many of the strongest other task vectors are tried one by one."""
_DOUBLED = 1.4
"""Times as far as its own task vector from which an expert is said to be doubled."""
_DEGENERATE = {
    "constant": "it gives one constant answer",
    "empty": "most of its answers are empty",
    "loop": "most of its answers repeat themselves in a loop",
    "invalid_choice": "most of its answers are none of the task's choices",
}


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why an expert is over budget: a name that other experts may share, and its own figures."""

    kind: str
    figures: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.figures}" if self.figures else self.kind


def likely_cause(
    case: Case,
    hidden: HiddenResult,
    judgement: Judgement,
    verdict: Verdict,
    trials: Trials | None,
) -> Cause | None:
    """Why the expert of a failed verdict is over budget; None where nothing tells."""
    label = verdict.method or judgement.method or next(iter(hidden.scales))
    scales = hidden.scales[label]
    merge = case.merge(label)
    degenerate = merge.expert(verdict.expert).degenerate if merge else None
    cause, comparison = None, case.pool.spec.experts[verdict.expert].comparison
    if verdict.method is not None and trials is not None:
        share = share_within(case.pool.spec.effective_budget.limits, score=1.0)
        allowed = share if 0 <= share < 1 else DEFAULT_MAX_DISAGREEMENT
        cause = _tried_cause(hidden, scales, verdict.expert, allowed, trials)
        if cause is not None and comparison != EXACT:
            partly = f"{cause.figures}; answers that change in part count in part, by {comparison}"
            cause = replace(cause, figures=partly)
    cause = cause or _predicted_cause(hidden, scales, verdict.expert)
    if degenerate is None:
        return cause
    named = f"degenerate output, {_DEGENERATE[degenerate]}"
    return replace(cause, kind=f"{named}; {cause.kind}") if cause else Cause(kind=named)


def _tried_cause(
    hidden: HiddenResult,
    scales: Mapping[str, float],
    expert: str,
    allowed: float,
    trials: Trials,
) -> Cause | None:
    """What has to be taken away for the expert to keep its answers; None where they cannot be read.

    A cause is named where the merge without it changes no more of them than is ``allowed``: the
    figures beside it are those of that trial.
    """
    weight = scales[expert]

    def rate(tried: Mapping[str, float]) -> float:
        agreement = trials.trial(tried, [expert])[expert]
        return math.nan if agreement is None else agreement.rate  # then none of them is known

    def kept(rate: float) -> bool:
        return compare(rate, allowed) == "pass"

    whole = rate(scales)
    if math.isnan(whole):
        return None
    if kept(whole):
        return Cause(kind="not seen on the probes", figures=f"there, {_answers(whole)} change")
    alone = rate({expert: weight})
    if kept(alone):
        return _interference(hidden, scales, expert, alone, rate, kept)
    at_one = rate({**scales, expert: 1.0})
    kind = f"weight too {'small' if weight < 1 else 'large'} at {weight:.2g}"
    even_alone = f"even alone, {_answers(alone)} change; at weight 1"
    if kept(at_one):
        return Cause(kind=kind, figures=f"{even_alone}, {_answers(at_one)}")
    # neither its weight nor the others alone: at 1 it changes nothing by itself
    return Cause(
        kind=f"{kind}, and interference",
        figures=f"{even_alone} but beside the others, still {_answers(at_one)}",
    )


def _answers(rate: float) -> str:
    """A share of an expert's answers, in words."""
    return {0.0: "none of its answers", 1.0: "all its answers"}.get(
        rate, f"{rate:.0%} of its answers"
    )


def _interference(
    hidden: HiddenResult,
    scales: Mapping[str, float],
    expert: str,
    alone: float,
    rate: Callable[[Mapping[str, float]], float],
    kept: Callable[[float], bool],
) -> Cause:
    """Who gets in the way of an expert that keeps its answers at its own weight."""
    times = _times_as_far(hidden, scales, expert)
    if times > _DOUBLED:
        less = rate({name: scale / times for name, scale in scales.items()})
        if kept(less):
            return Cause(
                kind="others push the same way",
                figures=f"its inputs go {times:.2g} times as far as its own task vector takes "
                f"them; with all weights divided by that, {_answers(less)} change",
            )
    weight, pull = scales[expert], pulls(hidden, scales, expert)
    strongest = sorted(pull, key=lambda name: -pull[name])[:_INTERFERERS]
    with_one = {n: rate({expert: weight, n: scales[n]}) for n in strongest}
    worst = max(with_one, key=lambda name: with_one[name])
    without = rate({name: scale for name, scale in scales.items() if name != worst})
    if kept(with_one[worst]):
        whose = "of several experts" if not kept(without) else f"with {worst}, beside others"
    else:
        whose = f"with {worst}" + ("" if kept(without) else " and others")
    return Cause(
        kind=f"interference {whose}",
        figures=f"alone at its weight of {weight:.2g}, {_answers(alone)} change; with {worst}, "
        f"{with_one[worst]:.0%}; without {worst}, {'' if kept(without) else 'still '}"
        f"{without:.0%}",
    )


def _times_as_far(hidden: HiddenResult, scales: Mapping[str, float], expert: str) -> float:
    """(G λ)_i / G_ii, where that is what moves the inputs most: how far the merge takes them the
    way of the expert's own task vector; else 0."""
    names, gram = hidden.states.names, hidden.grams[expert]
    own, weights = names.index(expert), np.array([scales[name] for name in names])
    if gram[own, own] <= 0:
        return 0.0
    times = float(gram[own] @ weights / gram[own, own])
    total = metrics.own_input_distortion(gram, weights, own).total
    overshoot = (times - 1) ** 2 * float(gram[own, own])
    return times if overshoot > total / 2 else 0.0


def _predicted_cause(
    hidden: HiddenResult, scales: Mapping[str, float], expert: str
) -> Cause | None:
    """The larger part of the distortion predicted from the shifts of the states (THEORY 5); None
    where the parts cancel out for the most, so that neither is to blame."""
    names, weight = hidden.states.names, scales[expert]
    weights = np.array([scales[name] for name in names])
    parts = metrics.own_input_distortion(hidden.grams[expert], weights, names.index(expert))
    total = parts.dilution + parts.interference
    if total <= 0 or 2 * parts.total < total:
        return None
    share = parts.dilution / total
    if parts.dilution >= parts.interference:
        return Cause(
            kind=f"weight too {'small' if weight < 1 else 'large'} at {weight:.2g}",
            figures=f"{share:.0%} of the predicted distortion comes of it",
        )
    pull = pulls(hidden, scales, expert)
    most = max(pull, key=lambda name: pull[name])
    return Cause(
        kind=f"interference with {most}, beside others",
        figures="the other task vectors move its inputs "
        f"({1 - share:.0%} of the predicted distortion)",
    )


def pulls(hidden: HiddenResult, scales: Mapping[str, float], expert: str) -> dict[str, float]:
    """λ_j² G_jj: how far each other task vector moves ``expert``'s inputs, by expert."""
    gram = hidden.grams[expert]
    return {
        name: scales[name] ** 2 * float(gram[j, j])
        for j, name in enumerate(hidden.states.names)
        if name != expert
    }
