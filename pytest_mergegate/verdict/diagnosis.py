"""Why an expert is over budget, and what would help: from the pool's numbers, and a few trials on
the probes."""

from dataclasses import dataclass

from pytest_mergegate.engine.running.trials import Trials
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.merging.method import is_sum
from pytest_mergegate.verdict.causes import Cause, likely_cause
from pytest_mergegate.verdict.evidence import Case
from pytest_mergegate.verdict.judge import Judgement, Verdict
from pytest_mergegate.verdict.remedies import Remedy, find_remedies


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One expert over budget: the likely cause, its neighbours, and ways out."""

    expert: str
    cause: Cause | None
    nearest: str | None
    farthest: str | None
    remedies: tuple[Remedy, ...]
    """Those for the pool as a whole, the best first."""


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
    sums = {method.label for method in case.methods if is_sum(method)}
    remedies = tuple(find_remedies(gate, hidden, judgement, list(failed), trials, sums))
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
