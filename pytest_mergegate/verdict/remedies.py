"""What would help a pool that is over budget: from its numbers, and a few trials on the probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.verdict.budgets import limit_on, share_within
from pytest_mergegate.verdict.evidence import compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_mergegate.engine.running.trials import Trials
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.stages.hidden import HiddenResult
    from pytest_mergegate.verdict.judge import Judgement, Verdict

_CANDIDATES = 4
"""At most so many experts are tried for leaving out: each trial is a small merge."""
_SCALES = (0.3, 0.5, 0.7, 1.0)


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One way out; ``drop`` names the experts to leave out, if that is it."""

    text: str
    drop: tuple[str, ...] = ()


def find_remedies(
    gate: Gate,
    hidden: HiddenResult,
    judgement: Judgement,
    failed: Sequence[str],
    trials: Trials | None,
) -> tuple[Remedy, ...]:
    """Ways out for the experts ``failed``, the surest first; empty where none is in sight."""
    limits = gate.spec.effective_budget.limits
    found: list[Remedy | None] = []
    if gate.spec.merge.select == "all":
        found.append(_passing_methods(judgement))
    if (limit := limits.get(limit_on("mds"))) is not None:
        found.append(_without_for_mds(hidden, limit, failed))
    share = share_within(limits, score=1.0)
    method = next((v.method for v in judgement.verdicts if v.method and v.status == "fail"), None)
    if share < 1 and method is not None and trials is not None:
        found.append(_leave_out(hidden, method, failed, share, trials))
        found.append(_reweight(hidden, share, trials))
    return tuple(remedy for remedy in found if remedy is not None)


def pulls(hidden: HiddenResult, scales: Mapping[str, float], expert: str) -> dict[str, float]:
    """λ_j² G_jj: how far each other task vector moves ``expert``'s inputs, by expert."""
    gram = hidden.grams[expert]
    return {
        name: scales[name] ** 2 * float(gram[j, j])
        for j, name in enumerate(hidden.states.names)
        if name != expert
    }


def _passing_methods(judgement: Judgement) -> Remedy | None:
    """The methods that would pass by themselves."""
    by_method: dict[str, list[Verdict]] = {}
    for verdict in judgement.verdicts:
        if verdict.method is not None:
            by_method.setdefault(verdict.method, []).append(verdict)
    passing = [m for m, group in by_method.items() if all(v.status == "pass" for v in group)]
    return Remedy(text=f"merge with {' or '.join(passing)}, which passes") if passing else None


def _without_for_mds(hidden: HiddenResult, limit: float, failed: Sequence[str]) -> Remedy | None:
    """The one expert without which every remaining MDS is within the limit."""
    names = hidden.states.names
    for expert in failed:
        keep = [k for k, name in enumerate(names) if name != expert]
        try:
            similarity = metrics.hidden_similarity(hidden.distances[np.ix_(keep, keep)])
        except metrics.Undefined:
            continue
        largest = float(metrics.merging_difficulty(similarity).max())
        if compare(largest, limit) == "pass":
            text = f"leave {expert} out: the others' largest MDS is then {number_text(largest)}"
            return Remedy(text=text, drop=(expert,))
    return None


def _leave_out(
    hidden: HiddenResult, method: str, failed: Sequence[str], limit: float, trials: Trials
) -> Remedy | None:
    """The expert without which the judged method keeps all others within the limit."""
    tried = [
        (value, name)
        for name, rest in _rests(hidden, hidden.scales[method], failed)
        if (value := _largest_disagreement(rest, trials)) is not None
    ]
    value, name = min(tried, default=(1.0, ""))
    if not name or compare(value, limit) != "pass":
        return None
    text = (
        f"leave {name} out: {method} then changes at most {value:.0%} of the others' answers "
        "(tried on the probes)"
    )
    return Remedy(text=text, drop=(name,))


def _rests(
    hidden: HiddenResult, scales: Mapping[str, float], failed: Sequence[str]
) -> Iterator[tuple[str, dict[str, float]]]:
    """The scales without each suspect; those of an average are shared out again."""
    averaging = abs(sum(scales.values()) - 1) < 1e-6
    for name in _suspects(hidden, scales, failed):
        rest = {other: scale for other, scale in scales.items() if other != name}
        total = sum(rest.values())
        if averaging and total > 0:
            rest = {other: scale / total for other, scale in rest.items()}
        if len(rest) > 1:
            yield name, rest


def _suspects(
    hidden: HiddenResult, scales: Mapping[str, float], failed: Sequence[str]
) -> list[str]:
    """The failing experts, and who pulls most on their inputs."""
    pull = dict.fromkeys(hidden.states.names, 0.0)
    for expert in failed:
        whole = float(np.trace(hidden.grams[expert])) or 1.0
        for name, value in pulls(hidden, scales, expert).items():
            pull[name] += value / whole
    ranked = sorted(pull, key=lambda name: -pull[name])
    return list(dict.fromkeys([*failed[: _CANDIDATES - 1], *ranked]))[:_CANDIDATES]


def _reweight(hidden: HiddenResult, limit: float, trials: Trials) -> Remedy | None:
    """The first common scale, or the best convex weights, that stays within the limit."""
    names, bounds = hidden.states.names, hidden.bounds
    options = [(dict.fromkeys(names, s), f"task_arithmetic with weight {s}") for s in _SCALES]
    options.append((dict(bounds.weights), "linear with weights: optimal"))
    options.append((dict(bounds.minimax_weights), "linear with weights: minimax"))
    for scales, how in options:
        value = _largest_disagreement(scales, trials)
        if value is not None and compare(value, limit) == "pass":
            text = f"{how}: it changes at most {value:.0%} of any expert's answers"
            return Remedy(text=f"{text} (tried on the probes)")
    return None


def _largest_disagreement(scales: Mapping[str, float], trials: Trials) -> float | None:
    """Over the experts in ``scales``; None where one cannot be read from the probes."""
    rates = [None if a is None else a.rate for a in trials.trial(scales).values()]
    known = [rate for rate in rates if rate is not None]
    return max(known) if len(known) == len(rates) else None
