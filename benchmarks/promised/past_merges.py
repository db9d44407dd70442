"""Statements that rest on recorded merges: predicted losses, and gates that pass by them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from promised.gates import (
    HAIR,
    Comparisons,
    base_of,
    gate_of,
    labels_of,
    merge_of,
    pool_of,
    with_limit,
)
from promised.records import COMPARED, Fate, Kind, past_of
from promised.rows import Row, Scenario, Statement, counted
from pytest_mergegate.gate.spec import PREDICTION
from pytest_mergegate.verdict import judge as judging
from pytest_mergegate.verdict.evidence import Case
from pytest_mergegate.verdict.past_merges import predict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.history.past import Past
    from pytest_mergegate.verdict.judge import Judgement
    from pytest_mergegate.verdict.past_merges import Prediction

    Rng = np.random.Generator

PREDICTED = Statement(
    name="predicted",
    text="The interval that a registry of losses and disagreements on different inputs gives for "
    "one expert of a new merge does not hold its loss.",
)
PASSED = Statement(
    name="predicted-pass",
    text="With `max_loss` and no labels, one expert passes by past merges though its true loss, "
    "under every method, is a hair over the limit.",
)
UNLIKE = Statement(
    name="unlike-records",
    text="One expert passes by past merges of another base, metric or reading, by losses measured "
    "on the inputs that were compared, or with a score on fewer inputs than theirs.",
)
STATEMENTS = (PREDICTED, PASSED, UNLIKE)
LIMIT = 10.0
"""Percent."""
WRONG = round(1 - PREDICTION, 9)
TRIED = labels_of(gate_of({}, methods=10))
"""Methods, of which each pool was merged by some."""
ASKED = 40
"""How often one registry of another kind is asked."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """What a team has recorded before it merges a new pool."""

    pools: int
    per_pool: int = 1
    """Merges of each, by as many methods."""
    experts: int = 1
    """Of each pool, whose loss was measured."""

    def __str__(self) -> str:
        each = f"merges of each: {self.per_pool}, losses of a merge: {self.experts}"
        return f"{self.pools} pools recorded, {each}"

    @property
    def label(self) -> str:
        """By which registries are drawn, however the setting is worded."""
        return f"{self.pools} pools recorded, {self.per_pool} x {self.experts} losses of each"

    def past(self, gate: Gate, rng: Rng, kind: Kind) -> Past:
        """Read from lines of the registry, not from a file."""
        lines = []
        for pool in range(self.pools):
            hard = hardness(rng)
            for label in rng.choice(TRIED, self.per_pool, replace=False).tolist():
                fates = [Fate.drawn(rng, hard) for _ in range(self.experts)]
                lines.append(kind.line(gate, pool, label, fates, rng))
        return past_of(lines)


def hardness(rng: Rng) -> float:
    """How much merging a pool changes, of answers."""
    return float(rng.beta(1, 4))


def gated(
    gate: Gate, past: Past, counts: Sequence[int]
) -> tuple[Judgement, tuple[Prediction, ...]]:
    """The judgement where so many answers of the first expert differ under each method, and none of
    the other's; and what was predicted."""
    comparisons = Comparisons(gate)
    merges = tuple(
        merge_of(label, [comparisons.of("e0", [(count, 0)]), comparisons.of("e1", [(0, 0)])])
        for label, count in zip(labels_of(gate), counts, strict=True)
    )
    results = Case(pool=pool_of(gate), merges=merges, base=base_of(gate))
    results = replace(results, predictions=predict(results, past))
    return judging.judge(gate, results, "merge"), results.predictions


def predicted(team: Team, rng: Rng, gates: int) -> list[Row]:
    """How often an interval does not hold a new loss, as it will be measured and as it is; and how
    often a gate passes whose limit is a hair below the truth: of one new merge, or under some
    methods that are all to lose as much."""
    unlimited = gate_of({"max_loss": 10.0}, experts=2)
    limited = {methods: gate_of({"max_loss": LIMIT}, methods=methods) for methods in (1, 3, 6, 10)}
    found: dict[tuple[Statement, str], list[bool]] = {}
    for _ in range(gates):
        past = team.past(unlimited, rng, Kind())
        new = _new_merge(unlimited, past, rng)
        new |= {(PASSED, _under(m)): _passes(gate, past, rng) for m, gate in limited.items()}
        for key, is_broken in new.items():
            found.setdefault(key, []).append(is_broken)
    return [
        row
        for (statement, what), each in found.items()
        for row in counted(statement, f"{team}, {what}", WRONG, each)
    ]


def _under(methods: int) -> str:
    return f"limit {LIMIT:g} %, {methods} method{'s' * (methods > 1)}"


def _new_merge(gate: Gate, past: Past, rng: Rng) -> dict[tuple[Statement, str], bool]:
    fate = Fate.drawn(rng, hardness(rng))
    gate = with_limit(gate, "max_loss", 100 * fate.loss / (1 + HAIR))
    judgement, predictions = gated(gate, past, [fate.compared(rng)])
    told = next(p for p in predictions if p.expert == "e0" and p.source == "registry")
    assert told.loss.interval is not None
    low, high = told.loss.interval
    return {
        (PREDICTED, "the loss as measured"): not low <= fate.measured(rng) <= high,
        (PREDICTED, "the loss in truth"): not low <= -100 * fate.loss <= high,
        (PASSED, "limit at any new loss"): passes_by(judgement),
    }


def _passes(gate: Gate, past: Past, rng: Rng) -> bool:
    loss = LIMIT / 100 * (1 + HAIR)
    fates = [Fate.drawn(rng, 0.0, loss=loss) for _ in gate.spec.merge.methods]
    judgement, _ = gated(gate, past, [fate.compared(rng) for fate in fates])
    return passes_by(judgement)


def passes_by(judgement: Judgement) -> bool:
    """Whether the first expert passes by its past."""
    first = judgement.verdicts[0]
    return first.status == "pass" and first.basis == "predicted"


def unlike(name: str, kind: Kind, rng: Rng, gates: int) -> list[Row]:
    """How often a gate passes by records that say nothing of it, though by others like them, but of
    its own kind, many would: each registry is asked some dozens of times."""
    gate, passed = gate_of({"max_loss": 30.0}, experts=2), []
    for _ in range(math.ceil(gates / ASKED)):
        past = Team(pools=30).past(gate, rng, kind)
        # on fewer differences the certificate would do by itself
        asked = rng.integers(13, 15, ASKED).tolist()
        passed += [passes_by(gated(gate, past, [count])[0]) for count in asked]
    return counted(UNLIKE, name, None if kind == Kind() else 0.0, passed)


def scenarios() -> Iterator[Scenario]:
    """All of them."""
    for team in (Team(pools=100), Team(pools=4, per_pool=3, experts=2)):
        yield Scenario(statement=PREDICTED, label=team.label, run=partial(predicted, team))
    kinds = {
        "its own kind, for comparison": Kind(),
        "another base": Kind(base="other"),
        "another metric": Kind(metric="accuracy"),
        "another reading": Kind(max_answer_tokens=8),
        "the same inputs": Kind(shared=COMPARED),
        "scores on twice as many inputs": Kind(compared=2 * COMPARED),
    }
    for name, kind in kinds.items():
        yield Scenario(statement=UNLIKE, label=name, run=partial(unlike, name, kind))
