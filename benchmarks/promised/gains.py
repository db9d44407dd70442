"""Statements about the gain kept: experts that add much or little to their base, merges that keep
some of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from promised.gates import (
    HAIR,
    Comparisons,
    alone,
    base_of,
    gate_of,
    labels_of,
    merge_of,
    pool_of,
    scored,
)
from promised.rows import Row, Scenario, Statement, counted
from promised.shapes import OVERLAP_MEAN, overlap
from pytest_mergegate.gate.spec import FEWEST
from pytest_mergegate.metrics import Undefined, gain_kept_interval
from pytest_mergegate.stages.evaluate import EvaluateResult
from pytest_mergegate.verdict import judge as judging
from pytest_mergegate.verdict.evidence import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from pytest_mergegate.gate.gatefile import Gate

    Scores = npt.NDArray[np.float64]
    Rng = np.random.Generator

KEPT = Statement(
    name="gain-kept",
    text="The 95 % interval of the gain that one expert keeps does not hold the true one.",
)
REACHED = Statement(
    name="min-gain-kept",
    text="A gate with `min_gain_kept` and `judge: bound` passes though the gain that one expert "
    "keeps, under every method, is truly a hair below the limit.",
)
FEW = Statement(
    name="few-examples-gain",
    text=f"A gate with `min_gain_kept` on fewer than {FEWEST} examples, judged on its point, "
    "passes though the gain that one expert keeps is truly a hair below the limit.",
)
STATEMENTS = (KEPT, REACHED, FEW)
SIZES = (20, 64, 256)
CHEAPEST = SIZES[0]
SURELY = 20_000
"""Examples of the other expert: it stops no gate from passing."""


@dataclass(frozen=True, kw_only=True)
class Adding:
    """How an expert and its base score."""

    name: str
    base: float
    """The mean score of the base."""
    gain: float
    """By how much the expert's is above it."""
    drawn: Callable[[Rng, int], tuple[Scores, Scores]]
    """Scores of the expert and of the base, on so many examples."""


def _right(base: float, expert: float, rng: Rng, size: int) -> tuple[Scores, Scores]:
    own, alone = (rng.random((2, size)) < [[expert], [base]]).astype(np.float64)
    return own, alone


def _beta(base: float, expert: float, rng: Rng, size: int) -> tuple[Scores, Scores]:
    """What is hard for one is hard for the other."""
    hard = rng.uniform(0.5, 1, size)
    own, alone = (hard * rng.beta(8 * mean, 8 * (1 - mean), size) for mean in (expert, base))
    return own, alone


def _rewritten(rng: Rng, size: int) -> tuple[Scores, Scores]:
    """As ROUGE-L has it; the base answers half of them otherwise, and half as well."""
    own = overlap(rng, size)
    other = overlap(rng, size) * rng.integers(0, 2, size)
    return own, np.where(rng.random(size) < 0.5, other, own)


ADDING = (
    Adding(name="0/1, .8 added to .1", base=0.1, gain=0.8, drawn=partial(_right, 0.1, 0.9)),
    Adding(name="0/1, .15 added to .5", base=0.5, gain=0.15, drawn=partial(_right, 0.5, 0.65)),
    Adding(name="graded, .45 added to .15", base=0.15, gain=0.45, drawn=partial(_beta, 0.2, 0.8)),
    Adding(name="graded, .08 added to .3", base=0.3, gain=0.075, drawn=partial(_beta, 0.4, 0.5)),
    Adding(
        name="graded, like ROUGE-L, .14 added to .41",
        base=0.75 * OVERLAP_MEAN,
        gain=0.25 * OVERLAP_MEAN,
        drawn=_rewritten,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is added and kept, and on how many examples it is seen."""

    adding: Adding
    kept: float
    examples: int

    def __str__(self) -> str:
        return f"{self.adding.name}, {self.kept:g} of it kept, {self.examples} examples"

    def merged(self, rng: Rng, own: Scores, base: Scores) -> Scores:
        """Scores of a merge that answers like one of the two; or right and wrong by chance alone,
        where it keeps more than all or less than nothing."""
        chance = rng.random(own.size)
        if 0 <= self.kept <= 1:
            return np.where(chance < self.kept, own, base)
        mean = self.adding.base + self.kept * self.adding.gain
        return (chance < mean).astype(np.float64)


def missed(setting: Setting, rng: Rng, gates: int) -> list[Row]:
    """How often the interval does not hold the truth; one that is not told is wrong of nothing."""
    known: dict[bytes, bool] = {}

    def misses() -> bool:
        own, base = setting.adding.drawn(rng, setting.examples)
        scores = np.stack([setting.merged(rng, own, base), own, base])
        order = np.lexsort(scores)  # 0/1 scores come again and again
        key = scores[:, order].tobytes()
        if key not in known:
            try:
                low, high = gain_kept_interval(*scores)
            except Undefined:
                low, high = -np.inf, np.inf
            known[key] = not low <= setting.kept <= high
        return known[key]

    return counted(KEPT, str(setting), 0.05, (misses() for _ in range(gates)))


class Judged:
    """Verdicts on what an expert keeps of its gain; the other one keeps all of it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._known: dict[bytes, bool] = {}
        self._results = Case(pool=pool_of(gate, labelled=True), base=base_of(gate))
        comparisons, experts = Comparisons(gate), [*gate.spec.experts]
        agreeing = [comparisons.of(name, [(0, 0)]) for name in experts]
        self._merges = tuple(merge_of(label, agreeing) for label in labels_of(gate))
        whole = np.ones(SURELY)
        self._others = [scored(gate, n, alone(whole, np.zeros(SURELY)), whole) for n in experts[1:]]

    def passes(self, own: Scores, base: Scores, merged: list[Scores]) -> bool:
        """Whether the gate does, where each method leaves such scores of the first expert."""
        scores = np.stack([own, base, *merged])
        key = scores[:, np.lexsort(scores)].tobytes()  # 0/1 scores come again and again
        if key not in self._known:
            first = next(iter(self.gate.spec.experts))
            left = [scored(self.gate, first, alone(own, base), each) for each in merged]
            evaluations = tuple(
                EvaluateResult(method=label, experts=(one, *self._others))
                for label, one in zip(labels_of(self.gate), left, strict=True)
            )
            known = dict.fromkeys(self.gate.spec.experts, alone(own, base))
            found = replace(
                self._results, merges=self._merges, evaluations=evaluations, scores=known
            )
            self._known[key] = judging.judge(self.gate, found, "eval").status == "pass"
        return self._known[key]


def passed(
    statement: Statement, setting: Setting, limit: float, methods: int, rng: Rng, gates: int
) -> list[Row]:
    """How often a gate passes that asks for ``limit``, of which a hair is lacking."""
    judge = "bound" if statement is REACHED else "point"
    gate = gate_of({"min_gain_kept": limit}, methods=methods, judge=judge, metric="rouge_l")
    judged, found = Judged(gate), []
    for _ in range(gates):
        own, base = setting.adding.drawn(rng, setting.examples)
        merged = [setting.merged(rng, own, base) for _ in range(methods)]
        found.append(judged.passes(own, base, merged))
    return counted(statement, _asked(setting, limit, methods), 0.025, found)


def _asked(setting: Setting, limit: float, methods: int) -> str:
    told = f"{setting.adding.name}, {setting.examples} examples, limit {limit:g}"
    return told + (f", {methods} methods" if methods > 1 else "")


def _gates() -> Iterator[tuple[Statement, Adding, int, float, int]]:
    """What is asked of whom: statement, scores, examples, limit, methods."""
    for adding in ADDING:
        yield REACHED, adding, 64, 0.7, 1
    for limit in (0.3, 0.95):
        yield REACHED, ADDING[0], 64, limit, 1
        yield REACHED, ADDING[0], 256, limit, 1
    yield REACHED, ADDING[1], 256, 0.7, 1
    yield REACHED, ADDING[0], 64, 0.7, 3
    for adding in (ADDING[0], ADDING[2]):
        for examples in (10, 29):
            yield FEW, adding, examples, 0.5, 1


def scenarios() -> Iterator[Scenario]:
    """All of them."""
    for statement, adding, examples, limit, methods in _gates():
        setting = Setting(adding=adding, kept=limit * (1 - HAIR), examples=examples)
        yield Scenario(
            statement=statement,
            label=_asked(setting, limit, methods),
            run=partial(passed, statement, setting, limit, methods),
            quick=adding is ADDING[0] and methods == 1 and examples in (10, 64),
        )
    for adding, examples in product(ADDING, SIZES):
        for kept in (-0.1, 0.0, 0.7, 1.0) if examples == CHEAPEST else (0.7,):
            setting = Setting(adding=adding, kept=kept, examples=examples)
            yield Scenario(
                statement=KEPT,
                label=str(setting),
                run=partial(missed, setting),
                quick=(examples, kept) == (CHEAPEST, 0.7),
            )
