"""Why an expert is over budget, from numbers already computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.cures import Cure, find_cures
from pytest_mergegate.findings import Finding

if TYPE_CHECKING:
    from pytest_mergegate.gatefile import Gate
    from pytest_mergegate.judge import Judgement, Results, Verdict
    from pytest_mergegate.stages.hidden import HiddenResult

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
    cures: tuple[Cure, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The diagnosis for people, one statement a line."""
        return (*self.facts, *(f"try: {cure.text}" for cure in self.cures))

    @property
    def facts(self) -> tuple[str, ...]:
        """What is known of the failure, without the ways out."""
        partners = (
            f"nearest partner {self.nearest}, farthest {self.farthest} (hidden-state distance)"
            if self.nearest
            else None
        )
        return tuple(filter(None, (self.cause and f"likely cause: {self.cause}", partners)))

    def finding(self) -> Finding:
        """The diagnosis as the report files it."""
        return Finding(
            code="MG401",
            severity="error",
            expert=self.expert,
            message="; ".join(self.facts) or "over budget",
            fix="; or ".join(cure.text for cure in self.cures),
        )


def diagnose(gate: Gate, results: Results, judgement: Judgement) -> tuple[Diagnosis, ...]:
    """Diagnose every expert with a failed verdict; empty where the states were not read."""
    failed = [v for v in judgement.verdicts if v.status == "fail"]
    hidden = results.hidden
    if not failed or hidden is None:
        return ()
    experts = list(dict.fromkeys(verdict.expert for verdict in failed))
    cures = find_cures(gate, hidden, judgement, experts)
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
