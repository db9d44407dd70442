"""Why an expert is over budget, and what would help, from numbers already computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.findings import Finding
from pytest_mergegate.judge import number_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_mergegate.gatefile import Gate
    from pytest_mergegate.judge import Judgement, Results, Verdict
    from pytest_mergegate.stages.hidden import HiddenResult

_CANDIDATES = 8
"""At most so many experts are tried for leaving out."""
_SCALES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
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
    cures: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The diagnosis for people, one statement a line."""
        partners = (
            f"nearest partner {self.nearest}, farthest {self.farthest} (hidden-state distance)"
            if self.nearest
            else None
        )
        return tuple(
            line
            for line in (
                self.cause and f"likely cause: {self.cause}",
                partners,
                *(f"try: {cure}" for cure in self.cures),
            )
            if line
        )

    def finding(self) -> Finding:
        """The diagnosis as the report files it."""
        return Finding(
            code="MG401",
            severity="error",
            expert=self.expert,
            message="; ".join(self.lines[: 2 if self.nearest else 1]) or "over budget",
            fix="; or ".join(self.cures),
        )


def diagnose(gate: Gate, results: Results, judgement: Judgement) -> tuple[Diagnosis, ...]:
    """Diagnose every expert with a failed verdict; empty where the states were not read."""
    failed = [v for v in judgement.verdicts if v.status == "fail"]
    hidden = results.hidden
    if not failed or hidden is None:
        return ()
    experts = list(dict.fromkeys(verdict.expert for verdict in failed))
    cures = tuple(_cures(gate, results, judgement, experts))
    return tuple(
        Diagnosis(
            expert=expert,
            cause=_cause(results, hidden, judgement, next(v for v in failed if v.expert == expert)),
            nearest=_partner(hidden, expert, nearest=True),
            farthest=_partner(hidden, expert, nearest=False),
            cures=cures,
        )
        for expert in experts
    )


def _partner(hidden: HiddenResult, expert: str, *, nearest: bool) -> str:
    names = hidden.states.names
    i = names.index(expert)
    others = [j for j in range(len(names)) if j != i]
    pick = min if nearest else max
    return names[pick(others, key=lambda j: float(hidden.distances[i, j]))]


def _cause(
    results: Results, hidden: HiddenResult, judgement: Judgement, verdict: Verdict
) -> str | None:
    label = verdict.method or judgement.method or next(iter(hidden.scales))
    scales = hidden.scales[label]
    names = hidden.states.names
    weights = np.array([scales[name] for name in names])
    i = names.index(verdict.expert)
    parts = metrics.own_input_distortion(hidden.grams[verdict.expert], weights, i)
    merge = next((m for m in results.merges if m.method.label == label), None)
    degenerate = merge.expert(verdict.expert).degenerate if merge else None
    prefix = f"degenerate output: {_DEGENERATE[degenerate]}; " if degenerate else ""
    total = parts.dilution + parts.interference
    if total <= 0:
        return prefix.rstrip("; ") or None
    share = parts.dilution / total
    if parts.dilution >= parts.interference:
        return (
            f"{prefix}dilution: under {label} the expert keeps {weights[i]:.2g} of its own task "
            f"vector ({share:.0%} of the predicted distortion)"
        )
    gram = hidden.grams[verdict.expert]
    pulls = {n: weights[j] ** 2 * gram[j, j] for j, n in enumerate(names) if j != i}
    most = max(pulls, key=lambda name: float(pulls[name]))
    return (
        f"{prefix}interference: under {label} the other task vectors move this expert's inputs, "
        f"{most} the most ({1 - share:.0%} of the predicted distortion)"
    )


def _cures(
    gate: Gate, results: Results, judgement: Judgement, failed: Sequence[str]
) -> Iterator[str]:
    yield from _passing_methods(results, judgement)
    hidden = results.hidden
    if hidden is None:
        return
    limits = gate.spec.effective_budget.limits
    if "max_mds" in limits and (without := _mds_without(hidden, limits["max_mds"], failed)):
        yield without
    limit = min(limits.get("max_disagreement", 1.0), limits.get("max_loss", 100.0) / 100)
    if limit < 1 and hidden.forecast is not None:
        leave_out = _leave_out(hidden, judgement, failed, limit)
        if leave_out:
            yield leave_out
        if reweighted := _reweighted(hidden, limit):
            yield reweighted


def _passing_methods(results: Results, judgement: Judgement) -> Iterator[str]:
    """Under ``select: all``, the methods that pass by themselves."""
    by_method: dict[str, list[Verdict]] = {}
    for verdict in judgement.verdicts:
        if verdict.method is not None:
            by_method.setdefault(verdict.method, []).append(verdict)
    passing = [m for m, group in by_method.items() if all(v.status == "pass" for v in group)]
    if passing and len(results.merges) > 1:
        yield f"merge with {' or '.join(passing)}, which passes"


def _mds_without(hidden: HiddenResult, limit: float, failed: Sequence[str]) -> str | None:
    """The one expert without which every remaining MDS is within the limit."""
    names = hidden.states.names
    for expert in failed:
        keep = [k for k, name in enumerate(names) if name != expert]
        try:
            similarity = metrics.hidden_similarity(hidden.distances[np.ix_(keep, keep)])
        except metrics.Undefined:
            continue
        most = float(metrics.merging_difficulty(similarity).max())
        if most <= limit:
            return f"leave {expert} out: the largest MDS of the others is then {number_text(most)}"
    return None


def _leave_out(
    hidden: HiddenResult, judgement: Judgement, failed: Sequence[str], limit: float
) -> str | None:
    """The expert without which the forecast of all others is best, if it is within the limit."""
    label = judgement.method or next(iter(hidden.scales))
    scales = hidden.scales[label]
    averaging = abs(sum(scales.values()) - 1) < 1e-6
    tried: list[tuple[float, str]] = []
    for name in _suspects(hidden, scales, failed):
        rest = {n: s for n, s in scales.items() if n != name}
        if averaging:
            total = sum(rest.values())
            rest = {n: s / total for n, s in rest.items()} if total else rest
        if len(rest) > 1:
            tried.append((_worst_forecast(hidden, rest), name))
    if not tried or min(tried)[0] > limit:
        return None
    value, name = min(tried)
    return (
        f"leave {name} out: under {label} the others' largest disagreement is then forecast at "
        f"{number_text(value)}"
    )


def _suspects(
    hidden: HiddenResult, scales: Mapping[str, float], failed: Sequence[str]
) -> list[str]:
    """Who pulls most on the failing experts' inputs, and the failing experts themselves."""
    names = hidden.states.names
    pull = dict.fromkeys(names, 0.0)
    for expert in failed:
        gram = hidden.grams[expert]
        whole = float(np.trace(gram)) or 1.0
        for j, name in enumerate(names):
            if name != expert:
                pull[name] += scales[name] ** 2 * float(gram[j, j]) / whole
    ranked = sorted(pull, key=lambda name: -pull[name])
    return list(dict.fromkeys([*failed[: _CANDIDATES // 2], *ranked]))[:_CANDIDATES]


def _reweighted(hidden: HiddenResult, limit: float) -> str | None:
    """The common scale, or the best convex weights, whose forecast is within the limit."""
    names = hidden.states.names
    options: list[tuple[float, str]] = []
    for scale in _SCALES:
        value = _worst_forecast(hidden, dict.fromkeys(names, scale))
        options.append((value, f"method task_arithmetic with weight {scale}"))
    options.append((_worst_forecast(hidden, hidden.bounds.weights), "linear, weights: optimal"))
    value, how = min(options, key=lambda option: option[0])
    if value > limit:
        return None
    return f"{how}: the largest disagreement is then forecast at {number_text(value)}"


def _worst_forecast(hidden: HiddenResult, scales: Mapping[str, float]) -> float:
    """The largest forecast disagreement of the experts in ``scales``; 1 where there is none."""
    if hidden.forecast is None:
        return 1.0
    agreements = [hidden.forecast.agreement(name, scales) for name in scales]
    return max((1.0 if a is None else a.rate for a in agreements), default=1.0)
