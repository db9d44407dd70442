"""What recorded merges say of a gate: losses that were not measured, by source (the certificate,
past merges, the paper's rows), and limits that the team's registry sets (``max_mds: auto@0.1``)."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.history.calibration.fit import Calibration
from pytest_mergegate.history.calibration.observations import SAME, Observation
from pytest_mergegate.history.past import Past
from pytest_mergegate.metrics import Undefined
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.verdict.budgets import BUDGETS, BudgetKind
from pytest_mergegate.verdict.evidence import Case
from pytest_mergegate.verdict.losses import certified_loss

Source = Literal["certificate", "registry", "beds", "paper"]
_SCORES = {
    "disagreement": "the disagreement of the merge",
    "surrogate": "the disagreement of the factored sum",
    "states": "the disagreement of mixed states",
}
"""What a calibration reads, best first."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The loss of one expert under one method."""

    expert: str
    method: str | None
    loss: Value
    """Percent, negative where the merge is worse; of a certificate the bound, whose interval is
    open above."""
    source: Source
    confidence: float
    """Of the interval; one-sided for a certificate."""
    score: str | None = None
    """What it was read from."""
    merges: int = 0
    """Recorded merges that it rests on."""
    enough: bool = False
    """Whether a verdict may pass on it: by the team's own merges of this base, metric and reading,
    and by a score on as many inputs as theirs. One on fewer says less than their losses show."""
    other: bool = False
    """Whether the merges are of another base, metric or reading, their losses may be of the inputs
    that were compared, or they are too few for as many methods as may be chosen: these leave a
    verdict open at most."""

    @property
    def judges(self) -> bool:
        """Whether a verdict may rest on it: the certificate is a bound, and has a rule of its own;
        the paper's rows are too few and too far away."""
        return self.source in {"registry", "beds"}

    @property
    def detail(self) -> str:
        """Where it comes from, in words."""
        whose = "recorded merges" if self.source == "registry" else "merges of the shipped beds"
        return f"predicted from {_SCORES[self.score or 'disagreement']} by {self.merges} {whose}"

    @property
    def short(self) -> str:
        """Why nothing passes on it, where its interval would."""
        if self.source == "beds":
            return "which are not this team's models, so that nothing passes on them"
        if self.other:
            return (
                "which are of another base, metric or reading, not known to have been scored on "
                "inputs of their own, or too few for so many methods, so that they decide nothing"
            )
        return "whose scores are on more inputs than were compared here"


def predict(case: Case, past: Past) -> tuple[Prediction, ...]:
    """Every source's word on every expert under every method, the best source first."""
    if case.pool.merged is not None:  # of methods it is none that was recorded
        of = [(merge.method.label, name) for merge in case.merges for name in case.pool.names]
        return tuple(p for method, name in of for p in _certificate(case, method, name))
    spec = case.pool.spec
    own = {
        name: past.like(
            case.pool.base.fingerprint,
            expert.metric,
            spec.reading_of(name),
            expert.comparison,
            spec.prediction_level,
        )
        for name, expert in spec.experts.items()
    }
    mixed = list(case.hidden.scales) if case.hidden is not None else []
    merged = [merge.method.label for merge in case.merges]
    summed = [surrogate.method for surrogate in case.surrogates]
    found: list[Prediction] = []
    for method in dict.fromkeys([*merged, *summed, *mixed]):
        for expert in case.pool.experts:
            comparison = spec.experts[expert.name].comparison
            found += _certificate(case, method, expert.name)
            scores = dict(_scores(case, method, expert.name, comparison))
            calibrations, inputs = own[expert.name]
            told = tuple(_calibrated(expert, method, scores, calibrations, "registry"))
            found += [replace(p, enough=scores[p.score or ""].inputs >= inputs) for p in told]
            if not told:
                alike = past.compared_by(comparison)
                others = _calibrated(expert, method, scores, alike, "registry")
                found += [replace(p, other=True) for p in others]
            found += _calibrated(expert, method, scores, past.shipped(comparison), "beds")
            found += _paper(case, method, expert.name)
    return tuple(found)


def _certificate(case: Case, method: str, expert: str) -> Iterator[Prediction]:
    merge = case.merge(method)
    if merge is None:
        return
    bound = certified_loss(case, merge, expert)
    if bound.number is not None:
        bound = Value(number=bound.number, interval=(bound.number, float("inf")))
    yield Prediction(
        expert=expert,
        method=method,
        loss=bound,
        source="certificate",
        confidence=case.pool.spec.level,
        score="disagreement",
    )


class _Score(NamedTuple):
    """A share of an expert's own inputs that is answered otherwise, and of how many."""

    value: float
    inputs: int


def _scores(case: Case, method: str, expert: str, comparison: str) -> Iterator[tuple[str, _Score]]:
    """Those by ``comparison``; stored states give no text that could be compared."""
    for score, run in (("disagreement", case.merge(method)), ("surrogate", case.surrogate(method))):
        found = run.expert(expert) if run is not None else None
        if found is None or found.compared_by != comparison:
            continue
        if found.disagreement.number is not None:
            # an answer that was cut may still go on to differ, as the certificate has it
            yield score, _Score(value=found.most, inputs=found.inputs)
    for forecast in case.hidden.forecasts if case.hidden is not None else ():
        mixed = (forecast.method, forecast.expert, forecast.compared_by)
        if mixed == (method, expert, comparison) and forecast.disagreement.number is not None:
            yield "states", _Score(value=forecast.disagreement.number, inputs=forecast.inputs)


def _calibrated(
    expert: Expert,
    method: str,
    scores: Mapping[str, _Score],
    calibrations: Mapping[str, Calibration],
    source: Source,
) -> Iterator[Prediction]:
    """By the best score that there is a calibration for; none where there is no such."""
    score = next((name for name in _SCORES if name in scores and name in calibrations), None)
    if score is None:
        return
    calibration = calibrations[score]
    told = calibration.predict(method, expert.fingerprint, scores[score].value)
    yield Prediction(
        expert=expert.name,
        method=method,
        loss=Value(number=told.loss, interval=(told.low, told.high)),
        source=source,
        confidence=calibration.confidence,
        score=score,
        merges=told.merges,
    )


def _paper(case: Case, method: str, expert: str) -> Iterator[Prediction]:
    """What the paper's 32 rows say of an MDS: a reference, and no more."""
    mds = case.hidden.experts[expert].mds.number if case.hidden is not None else None
    if mds is None:
        return
    try:
        told = metrics.paper_loss_model(mds)
    except metrics.Undefined as undefined:
        loss = Value.missing(undefined.reason)
    else:
        loss = Value(number=told.loss, interval=(told.low, told.high))
    yield Prediction(
        expert=expert, method=method, loss=loss, source="paper", confidence=0.90, score="mds"
    )


@dataclass(frozen=True, kw_only=True)
class AutomaticLimit:
    """What became of one ``auto@RATE``."""

    limit: float | None
    """None where it could not be certified."""
    text: str
    """Where the limit comes from, or what is lacking."""
    inputs: int = 0
    """On how many inputs of each expert the recorded scores are, at most: one on fewer may fall
    short of the limit by chance."""


def resolve_limits(
    gate: Gate, pool: Pool, past: Sequence[Observation]
) -> tuple[Gate, dict[str, AutomaticLimit]]:
    """The gate with the limits that ``past`` merges give, and what became of each.

    Only merges of the pool's base count, whose losses are by the metric and reading of one of its
    experts, whose answers were compared as that one's are, and whose losses are of inputs that were
    not compared; where experts differ in these, the strictest limit holds. One that cannot be
    certified stays as it is, and nothing is within it.
    """
    spec, budget = gate.spec, gate.spec.effective_budget
    if not budget.automatic:
        return gate, {}
    kinds = {
        (expert.metric, spec.reading_of(name), expert.comparison)
        for name, expert in spec.experts.items()
    }
    like = [
        (kind[-1], [one for one in past if one.is_like(pool.base.fingerprint, *kind)])
        for kind in sorted(kinds)
    ]
    found = {
        name: min(
            (_limit(BUDGETS[name], rate, own, comparison) for comparison, own in like),
            key=lambda found: -1.0 if found.limit is None else found.limit,
        )
        for name, rate in budget.automatic.items()
    }
    known = {name: auto.limit for name, auto in found.items() if auto.limit is not None}
    return gate.with_budget(budget.model_copy(update=known)), found


def with_known_limits(gate: Gate, pool: Pool, past: Callable[[], Sequence[Observation]]) -> Gate:
    """The gate with all its limits as numbers. Raises GateError for one that is not known."""
    if not gate.spec.effective_budget.automatic:
        return gate
    known, found = resolve_limits(gate, pool, past())
    for name, auto in found.items():
        if auto.limit is None:
            raise GateError(
                f"budget.{name}: {auto.text}",
                where=gate.where("budget", name),
                fix="record more merges, or write a number",
            )
    return known


def _limit(
    kind: BudgetKind, rate: float, past: Sequence[Observation], comparison: str
) -> AutomaticLimit:
    from pytest_mergegate.history.calibration.performance import miss_controlled

    assert kind.calibrated is not None
    try:
        threshold = miss_controlled(past, kind.quantity, rate)
    except Undefined as undefined:
        compared = "" if comparison == EXACT else f" of answers compared by {comparison}"
        return AutomaticLimit(limit=None, text=f"auto@{rate:g}: {undefined}{compared}")
    pools = "1 pool" if threshold.pools == 1 else f"{threshold.pools} pools"
    said = f"{threshold.collapses} recorded collapses of {pools}"
    if not threshold.value > 0:
        text = f"auto@{rate:g}: too many of {said} had a score of 0 to tell any apart"
        return AutomaticLimit(limit=None, text=text)
    counts = [getattr(one, kind.calibrated) for one in past if one.collapsed]
    return AutomaticLimit(
        # below the threshold by more than its rounding, for what is as high as it does not pass
        limit=min(threshold.value, 1e300) * (1 - SAME),
        text=f"auto@{rate:g}: misses at most {rate:.0%}, by {said}",
        # where one is not known, more than anybody has
        inputs=max((sys.maxsize if count is None else count for count in counts), default=0),
    )
