"""The plan in the report of a gate that did not pass, from what the gate has at hand.

Only stored states are mixed: no model is run. It is a hint, with the basis ``states``; what
``mergegate plan`` says rests on runs.
"""

from collections.abc import Sequence

from pytest_mergegate.engine.running.trials import Trials
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.planning.forecasts import PlannedGroupRecord, PlannedMergeRecord, PlanRecord
from pytest_mergegate.planning.limits import PoolLimits
from pytest_mergegate.planning.search import TriedGroups, fewest_groups, fewest_left_out
from pytest_mergegate.planning.weights import OwnInputRisk, scales_of_part
from pytest_mergegate.stages.hidden import HiddenResult
from pytest_mergegate.verdict.budgets import judges_merges, set_limits, share_within
from pytest_mergegate.verdict.evidence import Case, compare
from pytest_mergegate.verdict.judge import Judgement

_MOST_TRIALS = 40
"""Groups whose states are mixed: a fraction of a second."""
_DECIDING = ("budget", "judge", "merge", "probes", "conflict")
"""What of a gate the search hangs on, beside the pool."""


def hint(
    gate: Gate,
    case: Case,
    judgement: Judgement,
    trials: Trials | None,
    drop: tuple[str, ...] = (),
) -> PlanRecord | None:
    """What to merge instead; None where the gate passed, where its budgets are not about merges, or
    where answers cannot be read from the states, which give no text to compare.

    ``drop`` are experts without which the others were tried on the probes, and passed.
    """
    hidden, limits = case.hidden, gate.spec.effective_budget.limits
    if judgement.status == "pass" or hidden is None or trials is None:
        return None
    if not judges_merges(limits) or any(kind.unplanned for kind, _ in set_limits(limits)):
        return None
    if any(expert.comparison != EXACT for expert in gate.spec.experts.values()):
        return None
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
    tried = TriedGroups(mixed, _MOST_TRIALS, mixed.names)
    if judgement.status == "fail":
        tried.note_failure((1 << count) - 1)  # whatever the states say of it
    found = fewest_groups(count, tried)
    if drop and 1 + len(drop) <= len(found.groups):
        groups = (mixed.tried_without(drop, judgement.method), *(_group((name,)) for name in drop))
        return PlanRecord(groups=groups, at_least=min(2, 1 + len(drop)), drop=drop)
    left_out = fewest_left_out(count, tried, found.groups)
    if left_out is not None and 2 * len(left_out.dropped) > count:
        left_out = None  # that is no way to save a pool
    largest_first = map(tried.named, sorted(found.groups, key=lambda group: -len(group)))
    return PlanRecord(
        groups=tuple(_group(names, mixed.best.get(names)) for names in largest_first),
        at_least=found.at_least,
        drop=tried.named(left_out.dropped) if left_out is not None else (),
    )


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

    def _merge(self, label: str, names: tuple[str, ...]) -> PlannedMergeRecord | None:
        """The group under one method, or None where an expert is over a limit or cannot be read."""
        spec = self._gate.spec
        scales = self._scales(label, names)
        worst, rate = None, -1.0
        for name in names:
            # a loss counts every answer that differs as lost
            allowed = share_within(spec.effective_budget.limits, spec.experts[name].score or 1.0)
            _, agreement = self._trials.forecast(name, scales)
            if agreement is None or compare(agreement.rate, allowed) != "pass":
                return None
            if agreement.rate > rate:
                worst, rate = name, agreement.rate
        return PlannedMergeRecord(
            method=label,
            shares="own",
            weights=scales,
            basis="states",
            status="pass",
            expert=worst,
            disagreement=rate,
        )
