"""Statements that rest on recorded merges: predicted losses, and limits that the registry sets."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from promised.gates import (
    BASE,
    HAIR,
    Comparisons,
    base_of,
    gate_of,
    labels_of,
    merge_of,
    pool_of,
    with_limit,
)
from promised.rows import Row, Scenario, Statement, counted
from pytest_mergegate import automatic
from pytest_mergegate import judge as judging
from pytest_mergegate.calibration.observations import COLLAPSE, Observation, observations
from pytest_mergegate.engine.cache import Cache
from pytest_mergegate.past import CONFIDENCE, Past
from pytest_mergegate.predictions import predict
from pytest_mergegate.registry.lines import SCHEMA, RegistryLine, line_id
from pytest_mergegate.registry.reading import Registry
from pytest_mergegate.results import Results

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_mergegate.calibration.fit import Calibration
    from pytest_mergegate.gatefile import Gate
    from pytest_mergegate.judge import Judgement
    from pytest_mergegate.predictions import Prediction

    Rng = np.random.Generator

PREDICTED = Statement(
    name="predicted",
    text="The interval that a registry of losses and disagreements on different inputs gives for "
    "one expert of a new merge does not hold its loss.",
)
PASSED = Statement(
    name="predicted-pass",
    text="A gate with `max_loss` and no labels passes by past merges though one expert's true "
    "loss, under every method, is a hair over the limit.",
)
UNLIKE = Statement(
    name="unlike-records",
    text="A gate passes by past merges of another base, metric or reading, by losses measured on "
    "the inputs that were compared, or with a score on fewer inputs than theirs.",
)
AUTOMATIC = Statement(
    name="auto",
    text="A gate with `max_disagreement: auto@RATE` passes a merge of a new pool in which an "
    "expert collapsed.",
)
STATEMENTS = (PREDICTED, PASSED, UNLIKE, AUTOMATIC)
COMPARED = 64
SCORED = 100
LIMIT = 10.0
"""Percent."""
WRONG = 1 - CONFIDENCE
TRIED = labels_of(gate_of({}, methods=10))
"""Methods, of which each pool was merged by some."""
EXPERTS = 8
"""How many a team has whose losses it measured."""
ASKED = 40
"""How often one registry of another kind is asked."""
_METRIC = "exact_match"


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What one merge does to one expert."""

    rate: float
    """Its true disagreement."""
    loss: float
    """Its true loss, a share."""

    @classmethod
    def drawn(cls, rng: Rng, hard: float, *, loss: float | None = None) -> Fate:
        """A merge of a pool that is so ``hard``; between a half and all of the answers that differ
        are lost. With a ``loss`` given, the disagreement that goes with it."""
        costs = rng.uniform(0.5, 1.0)
        if loss is not None:
            return cls(rate=min(1.0, loss / costs), loss=loss)
        rate = min(1.0, hard * rng.uniform(0.3, 1.7))
        return cls(rate=rate, loss=costs * rate)

    def compared(self, rng: Rng, inputs: int = COMPARED) -> int:
        """How many inputs are answered differently."""
        return int(rng.binomial(inputs, self.rate))

    def measured(self, rng: Rng) -> float:
        """The loss in percent, negative when worse, on examples of its own."""
        return -100 * float(rng.binomial(SCORED, self.loss)) / SCORED


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Of what sort records are."""

    base: str = BASE
    metric: str = _METRIC
    max_answer_tokens: int | None = None
    """None for the gate's own."""
    shared: int = 0
    compared: int = COMPARED

    def line(
        self, gate: Gate, pool: int, method: str, fates: Sequence[Fate], rng: Rng
    ) -> RegistryLine:
        """A line of the registry, as a gate on such a pool would have written it."""
        reading = gate.spec.reading_of("e0")
        if self.max_answer_tokens is not None:
            reading = reading.rsplit("=", 1)[0] + f"={self.max_answer_tokens}"
        # few experts, each merged with ever other partners, whose loss nobody measured
        own = f"{pool % EXPERTS}"
        experts = [self._expert(f"{own}-{k}", reading, fate, rng) for k, fate in enumerate(fates)]
        experts.append({**experts[0], "name": "partner", "fingerprint": f"{pool}", "loss": None})
        data = {
            "schema": SCHEMA,
            "base": self.base,
            "method": method.split(" ")[0],
            "label": method,
            "parameters": {},
            "weights": {one["name"]: 1 / len(experts) for one in experts},
            "settings": {"seed": 0, "probes": {"drawn_per_task": 5}},
            "versions": {},
            "distances": [],
            "experts": experts,
        }
        identified = {**data, "id": line_id(data), "created": "", "gate": ""}
        return RegistryLine.model_validate_json(json.dumps(identified))

    def _expert(self, name: str, reading: str, fate: Fate, rng: Rng) -> dict[str, Any]:
        loss = fate.measured(rng)
        return {
            "name": name,
            "fingerprint": name,
            "examples": None,
            "metric": self.metric,
            "reading": reading,
            "compared": self.compared,
            "scored": SCORED,
            "shared": self.shared,
            "scores": {"disagreement": fate.compared(rng, self.compared) / self.compared},
            "score_base": 0.0,
            "score_expert": 1.0,
            "score_merged": 1 + loss / 100,
            "loss": loss,
            "loss_interval": None,
        }


@dataclass(frozen=True, kw_only=True)
class Team:
    """What a team has recorded before it merges a new pool."""

    pools: int
    per_pool: int = 1
    """Merges of each, by as many methods."""
    experts: int = 1
    """Of each pool, whose loss was measured."""

    def __str__(self) -> str:
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


def past_of(lines: Sequence[RegistryLine]) -> Past:
    """What a registry of these lines says; what is fitted to them is kept, as in a gate's cache."""
    past = Past(None, Cache(folder=None))
    registry = Registry(path=Path("lines"), lines=tuple(lines), problems=(), exists=True)
    past.__dict__ |= {"registry": registry, "like": cache(past.like), "shipped": shipped()}
    return past


@cache
def shipped() -> Mapping[str, Calibration]:
    """What came with the package, read once."""
    return Past(None, Cache(folder=None)).shipped


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
    results = Results(pool=pool_of(gate), merges=merges, base=base_of(gate))
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
    """Whether a gate passes that would not without its past."""
    return judgement.status == "pass" and any(v.basis == "predicted" for v in judgement.verdicts)


def unlike(name: str, kind: Kind, rng: Rng, gates: int) -> list[Row]:
    """How often a gate passes by records that say nothing of it, though by others like them, but of
    its own kind, nearly every one would: each registry is asked some dozens of times."""
    gate, passed = gate_of({"max_loss": 30.0}, experts=2), []
    for _ in range(math.ceil(gates / ASKED)):
        past = Team(pools=30).past(gate, rng, kind)
        # on fewer differences the certificate would do by itself
        asked = rng.integers(13, 15, ASKED).tolist()
        passed += [passes_by(gated(gate, past, [count])[0]) for count in asked]
    return counted(UNLIKE, name, None if kind == Kind() else 0.0, passed)


@dataclass(frozen=True, kw_only=True)
class Collapses:
    """A registry of collapses, and a new pool in which an expert collapsed."""

    rate: float
    pools: int
    clustered: bool

    def __str__(self) -> str:
        each = "1 to 9 collapses of each, alike" if self.clustered else "1 collapse of each"
        return f"auto@{self.rate:g}, {self.pools} pools recorded, {each}"

    def fates(self, rng: Rng) -> list[Fate]:
        """The collapses of one pool: alike, for it is the pool that they come of."""
        level = float(rng.uniform(-COLLAPSE / 100, 1))
        near = rng.normal(0, 0.02, int(rng.integers(1, 10)) if self.clustered else 1)
        rates = np.clip(level + near, 0, 1).tolist()
        return [Fate(rate=rate, loss=1.0) for rate in rates]


def missed(setting: Collapses, rng: Rng, gates: int) -> list[Row]:
    """How often the least of a new pool's collapses passes."""
    gate = gate_of({"max_disagreement": f"auto@{setting.rate:g}"}, experts=2)
    pool, comparisons, passed = pool_of(gate), Comparisons(gate), []
    for _ in range(gates):
        limited, found = automatic.resolve(gate, pool, _recorded(setting, gate, rng))
        least = min(fate.compared(rng) for fate in setting.fates(rng))
        experts = [comparisons.of("e0", [(least, 0)]), comparisons.of("e1", [(0, 0)])]
        results = Results(
            pool=pool_of(limited),
            merges=(merge_of(labels_of(gate)[0], experts),),
            base=base_of(limited),
            automatic=found,
        )
        passed.append(judging.judge(limited, results, "merge").status == "pass")
    return counted(AUTOMATIC, str(setting), setting.rate, passed)


def _recorded(setting: Collapses, gate: Gate, rng: Rng) -> tuple[Observation, ...]:
    lines = []
    for pool in range(setting.pools):
        fates = setting.fates(rng)
        lines.append(Kind().line(gate, pool, "linear", fates, rng))
    return observations(lines)


def scenarios() -> Iterator[Scenario]:
    """All of them."""
    for team in (Team(pools=100), Team(pools=4, per_pool=3, experts=2)):
        yield Scenario(statement=PREDICTED, label=str(team), run=partial(predicted, team))
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
    for rate, pools in ((0.1, 9), (0.1, 20), (0.2, 9), (0.25, 7), (0.05, 19)):
        for clustered in (False, True):
            setting = Collapses(rate=rate, pools=pools, clustered=clustered)
            yield Scenario(
                statement=AUTOMATIC,
                label=str(setting),
                run=partial(missed, setting),
                quick=clustered and pools == 9,
            )
