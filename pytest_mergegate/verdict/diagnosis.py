"""Why an expert is over budget, and what would help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.gate.spec import DEFAULT_MAX_DISAGREEMENT
from pytest_mergegate.verdict.losses import lacking_evidence
from pytest_mergegate.verdict.remedies import Remedy, find_remedies, pulls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.engine.running.trials import Trials
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.stages.hidden import HiddenResult
    from pytest_mergegate.verdict.evidence import Case
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
class Diagnosis:
    """One expert over budget: the likely cause, its neighbours, and ways out."""

    expert: str
    cause: str | None
    nearest: str | None
    farthest: str | None
    remedies: tuple[Remedy, ...]


def diagnose(
    gate: Gate, case: Case, judgement: Judgement, trials: Trials | None
) -> tuple[Diagnosis, ...]:
    """Diagnose every expert with a failed verdict; empty where the states were not read.

    Where a merge was judged, causes and remedies are tried out on the probes, a few of them.
    """
    failed: dict[str, Verdict] = {}
    for verdict in judgement.verdicts:
        if verdict.status == "fail":
            failed.setdefault(verdict.expert, verdict)
    if not failed or case.hidden is None:
        return ()
    remedies = find_remedies(gate, case.hidden, judgement, list(failed), trials)
    return tuple(
        Diagnosis(
            expert=expert,
            cause=_cause(case, case.hidden, judgement, verdict, trials),
            nearest=_partner(case.hidden, expert, nearest=True),
            farthest=_partner(case.hidden, expert, nearest=False),
            remedies=remedies,
        )
        for expert, verdict in failed.items()
    )


def _partner(hidden: HiddenResult, expert: str, *, nearest: bool) -> str:
    names = hidden.states.names
    i = names.index(expert)
    others = [j for j in range(len(names)) if j != i]
    pick = min if nearest else max
    return names[pick(others, key=lambda j: float(hidden.distances[i, j]))]


def _cause(
    case: Case,
    hidden: HiddenResult,
    judgement: Judgement,
    verdict: Verdict,
    trials: Trials | None,
) -> str | None:
    label = verdict.method or judgement.method or next(iter(hidden.scales))
    scales = hidden.scales[label]
    merge = case.merge(label)
    degenerate = merge.expert(verdict.expert).degenerate if merge else None
    cause = None
    if merge and verdict.basis == "certified":
        lacking = lacking_evidence(verdict.limit, verdict.expert, merge, case)
        cause = f"not enough evidence: {lacking}" if lacking else None
    if cause is None and verdict.method is not None and trials is not None:
        cause = _tried_cause(hidden, scales, verdict, trials)
    cause = cause or _predicted_cause(hidden, scales, verdict.expert)
    named = [f"degenerate output: {_DEGENERATE[degenerate]}"] if degenerate else []
    return "; ".join([*named, *([f"{cause} (under {label})"] if cause else [])]) or None


def _tried_cause(
    hidden: HiddenResult, scales: Mapping[str, float], verdict: Verdict, trials: Trials
) -> str | None:
    """Take the others away: if the expert still fails at its own weight, that is too small, or
    over 1 too large."""
    expert, weight = verdict.expert, scales[verdict.expert]

    def rate(tried: Mapping[str, float]) -> float | None:
        agreement = trials.trial(tried)[expert]
        return None if agreement is None else agreement.rate

    alone = rate({expert: weight})
    if alone is None:
        return None
    if alone > DEFAULT_MAX_DISAGREEMENT:
        at_one = rate({**scales, expert: 1.0}) or 0.0
        kind, moved = ("dilution", "raised") if weight < 1 else ("overshoot", "lowered")
        return (
            f"{kind}: alone at its weight of {weight:.2g} it already changes {alone:.0%} of its "
            f"answers; with its weight {moved} to 1, the merge changes {at_one:.0%}"
        )
    pull = pulls(hidden, scales, expert)
    strongest = sorted(pull, key=lambda name: -pull[name])[:_INTERFERERS]
    with_one = {n: rate({expert: weight, n: scales[n]}) or 0.0 for n in strongest}
    worst = max(with_one, key=lambda name: with_one[name])
    without = rate({name: scale for name, scale in scales.items() if name != worst}) or 0.0
    left_out = f"with {worst} left out, the merge changes {without:.0%}"
    times = _times_as_far(hidden, scales, expert)
    if times > _DOUBLED:
        return (
            f"doubling: {worst} and others push the same way, so that its inputs go {times:.2g} "
            f"times as far as its own task vector takes them; {left_out}"
        )
    if with_one[worst] > DEFAULT_MAX_DISAGREEMENT:
        return (
            f"interference with {worst}: alone at its weight of {weight:.2g} it changes "
            f"{alone:.0%} of its answers, with {worst} {with_one[worst]:.0%}; {left_out}"
        )
    return (
        f"interference of several experts: alone at its weight of {weight:.2g} it changes only "
        f"{alone:.0%} of its answers; {left_out}"
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


def _predicted_cause(hidden: HiddenResult, scales: Mapping[str, float], expert: str) -> str | None:
    """The larger part of the distortion predicted from the shifts of the states (THEORY 5)."""
    names = hidden.states.names
    weights = np.array([scales[name] for name in names])
    parts = metrics.own_input_distortion(hidden.grams[expert], weights, names.index(expert))
    total = parts.dilution + parts.interference
    if total <= 0:
        return None
    share = parts.dilution / total
    if parts.dilution >= parts.interference:
        return (
            f"dilution: it keeps {scales[expert]:.2g} of its own task vector "
            f"({share:.0%} of the predicted distortion)"
        )
    pull = pulls(hidden, scales, expert)
    most = max(pull, key=lambda name: pull[name])
    return (
        f"interference: the other task vectors move its inputs, {most} the most "
        f"({1 - share:.0%} of the predicted distortion)"
    )
