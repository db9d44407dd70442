"""What would help a pool that is over budget, from numbers already computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.judge import number_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_mergegate.gatefile import Gate
    from pytest_mergegate.judge import Judgement, Verdict
    from pytest_mergegate.stages.hidden import HiddenResult

_CANDIDATES = 8
"""At most so many experts are tried for leaving out."""
_SCALES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Cure:
    """One way out; ``drop`` names the experts to leave out, if that is it."""

    text: str
    drop: tuple[str, ...] = ()


def find_cures(
    gate: Gate, hidden: HiddenResult, judgement: Judgement, failed: Sequence[str]
) -> tuple[Cure, ...]:
    """Ways out for the experts ``failed``, the surest first; empty where none is in sight."""
    limits = gate.spec.effective_budget.limits
    cures: list[Cure | None] = []
    if gate.spec.merge.select == "all":
        cures.append(_passing_methods(judgement))
    if "max_mds" in limits:
        cures.append(_without_for_mds(hidden, limits["max_mds"], failed))
    limit = min(limits.get("max_disagreement", 1.0), limits.get("max_loss", 100.0) / 100)
    if limit < 1:
        cures += [_leave_out(hidden, failed, limit), _reweight(hidden, limit)]
    return tuple(cure for cure in cures if cure is not None)


def _passing_methods(judgement: Judgement) -> Cure | None:
    """The methods that would pass by themselves."""
    by_method: dict[str, list[Verdict]] = {}
    for verdict in judgement.verdicts:
        if verdict.method is not None:
            by_method.setdefault(verdict.method, []).append(verdict)
    passing = [m for m, group in by_method.items() if all(v.status == "pass" for v in group)]
    return Cure(text=f"merge with {' or '.join(passing)}, which passes") if passing else None


def _without_for_mds(hidden: HiddenResult, limit: float, failed: Sequence[str]) -> Cure | None:
    """The one expert without which every remaining MDS is within the limit."""
    names = hidden.states.names
    for expert in failed:
        keep = [k for k, name in enumerate(names) if name != expert]
        try:
            similarity = metrics.hidden_similarity(hidden.distances[np.ix_(keep, keep)])
        except metrics.Undefined:
            continue
        largest = float(metrics.merging_difficulty(similarity).max())
        if largest <= limit:
            text = f"leave {expert} out: the others' largest MDS is then {number_text(largest)}"
            return Cure(text=text, drop=(expert,))
    return None


def _leave_out(hidden: HiddenResult, failed: Sequence[str], limit: float) -> Cure | None:
    """The expert without which some method is forecast to keep all others within the limit."""
    tried = [
        (_worst_forecast(hidden, rest), method, name)
        for method, scales in hidden.scales.items()
        for name, rest in _rests(hidden, scales, failed)
    ]
    value, method, name = min(tried, default=(1.0, "", ""))
    if not value <= limit or not name:
        return None
    text = (
        f"leave {name} out: under {method} the others' largest disagreement is then forecast at "
        f"{number_text(value)}"
    )
    return Cure(text=text, drop=(name,))


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


def _reweight(hidden: HiddenResult, limit: float) -> Cure | None:
    """The common scale, or the best convex weights, whose forecast is within the limit."""
    names = hidden.states.names
    options = [
        (_worst_forecast(hidden, dict.fromkeys(names, s)), f"task_arithmetic with weight {s}")
        for s in _SCALES
    ]
    options.append((_worst_forecast(hidden, hidden.bounds.weights), "linear, weights: optimal"))
    value, how = min(options, key=lambda option: option[0])
    if not value <= limit:
        return None
    return Cure(text=f"{how}: the largest disagreement is then forecast at {number_text(value)}")


def _worst_forecast(hidden: HiddenResult, scales: Mapping[str, float]) -> float:
    """The largest forecast disagreement of the experts in ``scales``; 1 where there is none."""
    if hidden.forecast is None:
        return 1.0
    agreements = [hidden.forecast.agreement(name, scales) for name in scales]
    return max((1.0 if a is None else a.rate for a in agreements), default=1.0)
