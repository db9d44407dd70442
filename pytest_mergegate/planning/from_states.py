"""The plan in the report of a gate that did not pass, from what the gate has at hand.

Groups are looked for by mixing stored states, and the few that are found are put together and run
on the probes; what ``mergegate plan`` says rests on the certificate's inputs.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pytest_mergegate.engine.running.references import Agreement
from pytest_mergegate.engine.running.trials import Trials
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.planning.forecasts import PlannedGroupRecord, PlannedMergeRecord, PlanRecord
from pytest_mergegate.planning.limits import PoolLimits
from pytest_mergegate.planning.search import Grouping, TriedGroups, fewest_groups, mask_of
from pytest_mergegate.planning.weights import OwnInputRisk, scales_of_part
from pytest_mergegate.stages.hidden import HiddenResult
from pytest_mergegate.verdict.budgets import judges_merges, set_limits, share_within
from pytest_mergegate.verdict.evidence import Case, compare
from pytest_mergegate.verdict.judge import Judgement
from pytest_mergegate.verdict.remedies import Remedy

_MOST_MIXED = 80
"""Groups whose states are mixed: a fraction of a second."""
_MOST_RUN = 12
"""Merges of groups that are run on the probes."""
_DECIDING = ("budget", "judge", "merge", "probes", "conflict")
"""What of a gate the search hangs on, beside the pool."""


def hint(
    gate: Gate,
    case: Case,
    judgement: Judgement,
    trials: Trials | None,
    remedy: Remedy | None = None,
) -> PlanRecord | None:
    """What to merge instead; None where the gate passed, where its budgets are not about merges,
    where no answers can be read, or where ``remedy`` keeps the pool one merge.

    ``remedy`` was tried on the probes: the plan says the same as it does.
    """
    hidden, limits = case.hidden, gate.spec.effective_budget.limits
    if judgement.status == "pass" or hidden is None or trials is None:
        return None
    if not judges_merges(limits) or any(kind.unplanned for kind, _ in set_limits(limits)):
        return None
    if remedy is not None and not remedy.drop:
        return None
    drop = remedy.drop if remedy is not None and remedy.tried else ()
    mixed = _MixedStates(gate, case, hidden, trials)
    described = {
        "spec": gate.spec.model_dump(mode="json", include=set(_DECIDING)),
        "scores": {name: expert.score for name, expert in gate.spec.experts.items()},
        "scales": {label: dict(scales) for label, scales in hidden.scales.items()},
        "verdict": [judgement.status, judgement.method, list(drop)],
    }
    found = trials.remembered(
        "hint", described, lambda: _search(mixed, judgement, drop).model_dump(mode="json")
    )
    return PlanRecord.model_validate(found)


def _search(mixed: "_MixedStates", judgement: Judgement, drop: tuple[str, ...]) -> PlanRecord:
    count = len(mixed.names)
    if drop:
        groups = (mixed.tried_without(drop, judgement.method), *(_group((name,)) for name in drop))
        return PlanRecord(groups=groups, at_least=min(2, 1 + len(drop)), drop=drop)
    tried = TriedGroups(mixed, _MOST_MIXED if mixed.tells else _MOST_RUN, mixed.names)
    if judgement.status == "fail":
        tried.note_failure((1 << count) - 1)  # whatever the states say of it
    found = _confirmed(mixed, tried)
    largest_first = sorted(map(tried.named, found.groups), key=lambda names: -len(names))
    rest = count - len(largest_first[0])
    return PlanRecord(
        groups=tuple(_group(names, mixed.best.get(names)) for names in largest_first),
        at_least=found.at_least,
        # to leave out more than that is no way to save a pool
        drop=tuple(n for names in largest_first[1:] for n in names) if 2 * rest <= count else (),
    )


def _confirmed(mixed: "_MixedStates", tried: TriedGroups) -> Grouping:
    """The fewest groups, looked for anew without those that fail once they are run."""
    while True:
        found = fewest_groups(len(mixed.names), tried)
        merged = [group for group in found.groups if len(group) > 1]
        failing = [group for group in merged if not mixed.confirmed(tried.named(group))]
        if not failing:
            return found
        for group in failing:
            tried.note_failure(mask_of(group))


def _group(names: tuple[str, ...], merge: PlannedMergeRecord | None = None) -> PlannedGroupRecord:
    """Experts that are said to go together, and how; a single one is not merged."""
    return PlannedGroupRecord(experts=names, status="pass", merges=(merge,) if merge else ())


class _MixedStates:
    """Forecasts by mixing the stored states of the probes."""

    def __init__(self, gate: Gate, case: Case, hidden: HiddenResult, trials: Trials) -> None:
        self.names = hidden.states.names
        self._gate, self._hidden, self._trials = gate, hidden, trials
        self._pool_limits = PoolLimits(gate.spec, hidden, case.conflict)
        self._risk = OwnInputRisk({name: hidden.grams[name] for name in self.names})
        self.tells = all(expert.comparison == EXACT for expert in gate.spec.experts.values())
        """Whether the states tell what an answer counts; of texts they do not."""
        self._runs = 0
        self.best: dict[tuple[str, ...], PlannedMergeRecord | None] = {}
        """The merge by which each group passes that was looked at; None where there is none."""

    def risk(self, names: Sequence[str]) -> float:
        """What the shifts of the states say of an average."""
        return self._risk.of(names)

    def passes(self, names: tuple[str, ...]) -> bool:
        """Whether a group does, by its mixed states."""
        self.best[names] = found = self._passing(names)
        return found is not None

    def tried_without(self, drop: Sequence[str], method: str | None) -> PlannedGroupRecord:
        """All but some experts, as one merge that was put together and run on the probes."""
        rest = tuple(name for name in self.names if name not in drop)
        label = method or next(iter(self._hidden.scales))
        merge = PlannedMergeRecord(
            method=label,
            shares="own",
            weights=self._scales(label, rest),
            basis="probes",
            status="pass",
        )
        return _group(rest, merge)

    def _scales(self, label: str, names: tuple[str, ...]) -> dict[str, float]:
        traits = self._gate.spec.merge.method_called(label).traits
        return scales_of_part(traits, self._hidden.scales[label], names)

    def _passing(self, names: tuple[str, ...]) -> PlannedMergeRecord | None:
        if any(self._pool_limits.against(names)):
            return None
        merges = [self._merge(label, names) for label in self._hidden.scales]
        passing = [merge for merge in merges if merge is not None]
        if len(passing) < len(merges) and self._gate.spec.merge.select == "all":
            return None
        return min(passing, key=lambda m: m.disagreement or 0.0, default=None)

    def confirmed(self, names: tuple[str, ...]) -> bool:
        """Whether a group passes where its merge is run on the probes; what can be run no more is
        left as it was forecast."""
        merge = self.best.get(names)
        if merge is None or merge.basis == "probes" or self._runs >= _MOST_RUN:
            return True
        self._runs += 1
        found = self._trials.trial(merge.weights)
        self.best[names] = run = self._held(merge.method, merge.weights, found, "probes")
        return run is not None

    def _merge(self, label: str, names: tuple[str, ...]) -> PlannedMergeRecord | None:
        """The group under one method, or None where an expert is over a limit or cannot be read."""
        scales = self._scales(label, names)
        if not self.tells:
            return self._held(label, scales, self._trials.trial(scales), "probes")
        forecast = {name: self._trials.forecast(name, scales)[1] for name in names}
        return self._held(label, scales, forecast, "states")

    def _held(
        self,
        label: str,
        scales: Mapping[str, float],
        answers: Mapping[str, Agreement | None],
        basis: Literal["states", "probes"],
    ) -> PlannedMergeRecord | None:
        """What was seen of a group's answers, where it is within every limit."""
        spec, rates = self._gate.spec, {}
        for name, agreement in answers.items():
            # a loss counts every answer that differs as lost
            allowed = share_within(spec.effective_budget.limits, spec.experts[name].score or 1.0)
            if agreement is None or compare(agreement.rate, allowed) != "pass":
                return None
            rates[name] = agreement.rate
        worst = max(rates, key=lambda name: rates[name])
        return PlannedMergeRecord(
            method=label,
            shares="own",
            weights=dict(scales),
            basis=basis,
            status="pass",
            expert=worst,
            disagreement=rates[worst],
        )
