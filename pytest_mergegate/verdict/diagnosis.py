"""Why an expert is over budget, and what would help: from the pool's numbers, and a few trials on
the probes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_mergegate.common.wording import number_text
from pytest_mergegate.engine.running.trials import Trials
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.stages.hidden import HiddenResult
from pytest_mergegate.stages.pool_parts import PoolParts
from pytest_mergegate.verdict.budgets import limit_on, share_within
from pytest_mergegate.verdict.causes import likely_cause, pulls
from pytest_mergegate.verdict.evidence import Case, compare
from pytest_mergegate.verdict.judge import Judgement, Verdict

_CANDIDATES = 4
"""At most so many experts are tried for leaving out: each trial is a small merge."""
_SCALES = (0.3, 0.5, 0.7, 1.0)


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One way out; ``drop`` names the experts to leave out, if that is it."""

    text: str
    drop: tuple[str, ...] = ()


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
    if not failed or (hidden := case.hidden) is None:
        return ()
    names = hidden.states.names
    remedies = tuple(_remedies(gate, hidden, judgement, list(failed), trials))
    found = []
    for expert, verdict in failed.items():
        distances = hidden.distances[names.index(expert)]
        apart = {name: d for name, d in zip(names, distances, strict=True) if name != expert}
        diagnosis = Diagnosis(
            expert=expert,
            cause=likely_cause(case, hidden, judgement, verdict, trials),
            nearest=min(apart, key=lambda name: apart[name]),
            farthest=max(apart, key=lambda name: apart[name]),
            remedies=remedies,
        )
        found.append(diagnosis)
    return tuple(found)


def _remedies(
    gate: Gate,
    hidden: HiddenResult,
    judgement: Judgement,
    failed: Sequence[str],
    trials: Trials | None,
) -> Iterator[Remedy]:
    """Ways out for the experts ``failed``, the surest first."""
    limits = gate.spec.effective_budget.limits
    if gate.spec.merge.select == "all":
        yield from _passing_methods(judgement)
    if (limit := limits.get(limit_on("mds"))) is not None:
        yield from _without_for_mds(PoolParts(hidden, gate.spec), limit, failed)
    share = share_within(limits, score=1.0)
    method = next((v.method for v in judgement.verdicts if v.method and v.status == "fail"), None)
    if share < 1 and method is not None and trials is not None:
        yield from _leave_out(hidden, method, failed, share, trials)
        yield from _reweight(hidden, share, trials)


def _passing_methods(judgement: Judgement) -> Iterator[Remedy]:
    """The methods that would pass by themselves."""
    by_method: dict[str, set[str]] = {}
    for verdict in judgement.verdicts:
        if verdict.method is not None:
            by_method.setdefault(verdict.method, set()).add(verdict.status)
    passing = [method for method, statuses in by_method.items() if statuses == {"pass"}]
    if passing:
        yield Remedy(text=f"merge with {' or '.join(passing)}, which passes")


def _without_for_mds(parts: PoolParts, limit: float, failed: Sequence[str]) -> Iterator[Remedy]:
    """The one expert without which every remaining MDS is within the limit."""
    for expert in failed:
        rest = [name for name in parts.names if name != expert]
        scores = [mds.number for mds in parts.of(rest, intervals=False).mds.values()]
        largest = max((score for score in scores if score is not None), default=math.nan)
        if compare(largest, limit) == "pass":
            text = f"leave {expert} out: the others' largest MDS is then {number_text(largest)}"
            yield Remedy(text=text, drop=(expert,))
            return


def _leave_out(
    hidden: HiddenResult, method: str, failed: Sequence[str], limit: float, trials: Trials
) -> Iterator[Remedy]:
    """The expert without which the judged method keeps all others within the limit: one that
    fails, or who pulls most on the inputs of those."""
    names, scales = hidden.states.names, hidden.scales[method]
    pull = dict.fromkeys(names, 0.0)
    for expert in failed:
        whole = float(np.trace(hidden.grams[expert])) or 1.0
        for name, moved in pulls(hidden, scales, expert).items():
            pull[name] += moved / whole
    suspects = [*failed[: _CANDIDATES - 1], *sorted(names, key=lambda name: -pull[name])]
    averaging = abs(sum(scales.values()) - 1) < 1e-6
    tried: list[tuple[float, str]] = []
    for name in list(dict.fromkeys(suspects))[:_CANDIDATES]:
        rest = {other: scale for other, scale in scales.items() if other != name}
        total = sum(rest.values())
        if averaging and total > 0:  # the shares of an average are shared out again
            rest = {other: scale / total for other, scale in rest.items()}
        if len(rest) > 1 and (value := _largest_disagreement(rest, trials)) is not None:
            tried.append((value, name))
    least, name = min(tried, default=(1.0, ""))
    if name and compare(least, limit) == "pass":
        text = (
            f"leave {name} out: {method} then changes at most {least:.0%} of the others' answers "
            "(tried on the probes)"
        )
        yield Remedy(text=text, drop=(name,))


def _reweight(hidden: HiddenResult, limit: float, trials: Trials) -> Iterator[Remedy]:
    """The first common scale, or the best convex weights, that stays within the limit."""
    names, bounds = hidden.states.names, hidden.bounds
    options = [(dict.fromkeys(names, s), f"task_arithmetic with weight {s}") for s in _SCALES]
    options.append((dict(bounds.weights), "linear with weights: optimal"))
    options.append((dict(bounds.minimax_weights), "linear with weights: minimax"))
    for scales, how in options:
        value = _largest_disagreement(scales, trials)
        if value is not None and compare(value, limit) == "pass":
            text = f"{how}: it changes at most {value:.0%} of any expert's answers"
            yield Remedy(text=f"{text} (tried on the probes)")
            return


def _largest_disagreement(scales: Mapping[str, float], trials: Trials) -> float | None:
    """Over the experts in ``scales``; None where one cannot be read from the probes."""
    found = trials.trial(scales).values()
    rates = [agreement.rate for agreement in found if agreement is not None]
    return max(rates) if len(rates) == len(found) else None
