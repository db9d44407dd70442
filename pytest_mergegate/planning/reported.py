"""The plan in the report of a gate that did not pass, from what the gate has at hand.

Only stored states are mixed: no model is run. It is a hint, with the basis ``states``; what
``mergegate plan`` says rests on runs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.gate.spec import INCREASES
from pytest_mergegate.planning.leaving_out import fewest_left_out
from pytest_mergegate.planning.risk import OwnInputRisk
from pytest_mergegate.planning.search import fewest_groups
from pytest_mergegate.planning.standing import Standing
from pytest_mergegate.planning.tried_groups import TriedGroups
from pytest_mergegate.verdict.judge import PER_METHOD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.engine.running.trials import Trials
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.planning.tried_groups import Group
    from pytest_mergegate.stages.hidden import HiddenResult
    from pytest_mergegate.verdict.case import Case
    from pytest_mergegate.verdict.judge import Judgement

_MOST_TRIALS = 40
"""Groups whose states are mixed: a fraction of a second."""
_DECIDING = ("budget", "judge", "merge", "probes", "conflict")
"""What of a gate the search hangs on, beside the pool."""


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Groups that stored states say would pass."""

    groups: tuple[HintedGroup, ...]
    at_least: int
    drop: tuple[str, ...]
    """Without these the others are said to pass as one merge."""


@dataclass(frozen=True, kw_only=True)
class HintedGroup:
    """Experts that are said to go together, and under which method."""

    names: tuple[str, ...]
    method: str | None
    """None for a single expert."""
    scales: Mapping[str, float]
    expert: str | None
    """Who is worst off."""
    disagreement: float | None
    """Of that expert, on its probes."""
    tried: bool = False
    """Whether the merge was put together and run on the probes, in place of mixing states."""


def hint(
    gate: Gate,
    case: Case,
    judgement: Judgement,
    trials: Trials | None,
    drop: tuple[str, ...] = (),
) -> Hint | None:
    """What to merge instead; None where the gate passed, where its budgets are not about merges, or
    where answers cannot be read from the states.

    ``drop`` are experts without which the others were tried on the probes, and passed.
    """
    hidden, limits = case.hidden, set(gate.spec.effective_budget.limits)
    if judgement.status == "pass" or hidden is None or trials is None:
        return None
    if not limits & PER_METHOD or limits & INCREASES:
        return None
    described = {
        "spec": gate.spec.model_dump(mode="json", include=set(_DECIDING)),
        "scores": {name: expert.score for name, expert in gate.spec.experts.items()},
        "scales": {label: dict(scales) for label, scales in hidden.scales.items()},
        "verdict": [judgement.status, judgement.method, list(drop)],
    }
    found = trials.remembered(
        "hint", described, lambda: asdict(_search(gate, case, hidden, judgement, drop, trials))
    )
    groups = tuple(
        HintedGroup(**{**group, "names": tuple(group["names"])}) for group in found["groups"]
    )
    return Hint(groups=groups, at_least=found["at_least"], drop=tuple(found["drop"]))


def _search(
    gate: Gate,
    case: Case,
    hidden: HiddenResult,
    judgement: Judgement,
    drop: tuple[str, ...],
    trials: Trials,
) -> Hint:
    mixed = _Mixed(gate, case, hidden, trials)
    count = len(hidden.states.names)
    tried = TriedGroups(mixed, _MOST_TRIALS)
    if judgement.status == "fail":
        tried.note_failure((1 << count) - 1)  # whatever the states say of it
    found = fewest_groups(count, tried)
    if drop and 1 + len(drop) <= len(found.groups):
        return mixed.without(drop, judgement.method)
    left_out = fewest_left_out(count, tried, found.groups)
    if left_out is not None and 2 * len(left_out.dropped) > count:
        left_out = None  # that is no way to save a pool
    return Hint(
        groups=tuple(mixed.hinted(group) for group in sorted(found.groups, key=lambda g: -len(g))),
        at_least=found.at_least,
        drop=mixed.named(left_out.dropped) if left_out is not None else (),
    )


class _Mixed:
    """Forecasts by mixing the stored states of the probes."""

    def __init__(self, gate: Gate, case: Case, hidden: HiddenResult, trials: Trials) -> None:
        self._gate, self._hidden, self._trials = gate, hidden, trials
        self._limits = gate.spec.effective_budget.limits
        self._names = hidden.states.names
        self._standing = Standing(gate.spec, hidden, case.conflict)
        grams = [hidden.grams[name] for name in self._names]
        self._risk = OwnInputRisk(grams, [lambda group: np.full(len(group), 1 / len(group))])
        self._found: dict[Group, HintedGroup | None] = {}

    def named(self, group: Group) -> tuple[str, ...]:
        """The experts by name."""
        return tuple(self._names[index] for index in group)

    def risk(self, group: Group) -> float:
        """As ``Forecasts.risk``."""
        return self._risk.of(group)

    def passes(self, group: Group) -> bool:
        """As ``Forecasts.passes``."""
        if group not in self._found:
            self._found[group] = self._passing(group)
        return self._found[group] is not None

    def hinted(self, group: Group) -> HintedGroup:
        """A group of a plan."""
        found = self._found.get(group)
        if found is not None:
            return found
        return HintedGroup(
            names=self.named(group), method=None, scales={}, expert=None, disagreement=None
        )

    def without(self, drop: tuple[str, ...], method: str | None) -> Hint:
        """All but some experts, as one merge that was tried."""
        rest = tuple(name for name in self._names if name not in drop)
        label = method or next(iter(self._hidden.scales))
        kept = HintedGroup(
            names=rest,
            method=label,
            scales=self._scales(label, rest),
            expert=None,
            disagreement=None,
            tried=True,
        )
        alone = [self.hinted((self._names.index(name),)) for name in drop]
        return Hint(groups=(kept, *alone), at_least=min(2, 1 + len(drop)), drop=drop)

    def _passing(self, group: Group) -> HintedGroup | None:
        names = self.named(group)
        if any(self._standing.against(names)):
            return None
        merges = [self._merge(label, names) for label in self._hidden.scales]
        passing = [merge for merge in merges if merge is not None]
        if len(passing) < len(merges) and self._gate.spec.merge.select == "all":
            return None
        return min(passing, key=lambda m: m.disagreement or 0.0, default=None)

    def _merge(self, label: str, names: Sequence[str]) -> HintedGroup | None:
        """The group under one method, or None where an expert is over a limit or cannot be read."""
        scales = self._scales(label, names)
        worst, rate = None, -1.0
        for name in names:
            _, agreement = self._trials.forecast(name, scales)
            if agreement is None or not agreement.rate <= self._allowed(name):
                return None
            if agreement.rate > rate:
                worst, rate = name, agreement.rate
        return HintedGroup(
            names=tuple(names), method=label, scales=scales, expert=worst, disagreement=rate
        )

    def _allowed(self, name: str) -> float:
        """The disagreement within all limits; a loss counts every answer that differs as lost."""
        score = self._gate.spec.experts[name].score or 1.0
        loss = self._limits.get("max_loss", math.inf) / 100 * score
        return min(self._limits.get("max_disagreement", math.inf), loss)

    def _scales(self, label: str, names: Sequence[str]) -> dict[str, float]:
        """λ_j in a group, from those in the whole pool: shares are shared out anew, and what
        methods like ties leave of a sum falls with the root of how many there are."""
        whole = self._hidden.scales[label]
        own = {name: whole[name] for name in names}
        traits = self._gate.spec.merge.method_called(label).traits
        if traits.combines == "average":
            total = sum(own.values())
            factor = sum(whole.values()) / total if total else 1.0
        else:
            factor = 1.0 if traits.scales is not None else math.sqrt(len(whole) / len(own))
        return {name: factor * scale for name, scale in own.items()}
