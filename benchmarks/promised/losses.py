"""Statements about measured losses: scores of 0 and 1, and graded ones of several shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
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
from promised.shapes import BINARY, GAINS, GRADED, OVERLAP, RIGHT, TWO_POINTS, Shape
from pytest_mergegate.gate.spec import FEWEST
from pytest_mergegate.metrics import disagreement_bound
from pytest_mergegate.stages.evaluate import EvaluateResult
from pytest_mergegate.verdict import judge as judging
from pytest_mergegate.verdict.evidence import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.stages.evaluate import ExpertScores
    from pytest_mergegate.stages.measured import ReferenceScores
    from pytest_mergegate.verdict.judge import Judgement

    Scores = npt.NDArray[np.float64]
    Rng = np.random.Generator

MEASURED = Statement(
    name="measured",
    text="A gate with `max_loss`, labels and `judge: bound` passes though one expert's true loss, "
    "under every method, is a hair over the limit.",
)
GOOD_END = Statement(
    name="good-end",
    text="The good end of one expert's measured loss is worse than its true loss.",
)
FEW = Statement(
    name="few-examples",
    text=f"A gate with `max_loss` and labels on fewer than {FEWEST} examples, judged on its point, "
    "passes though one expert's true loss, under every method, is a hair over the limit.",
)
POINT = Statement(
    name="measured-point",
    text=f"A gate with `max_loss` and labels, judged on its point from {FEWEST} examples on, "
    "passes though one expert's true loss is a hair over the limit. Nothing is promised here.",
)
STATEMENTS = (MEASURED, GOOD_END, FEW, POINT)
LOSSES = (1, 2, 5, 12, 30)
"""Percent: the limit, and except for a hair the truth."""
SIZES = (30, 64, 100, 200)
METHODS = (3, 6, 10)
CHEAP = 5
SURELY = 20_000
"""Examples of the other experts: these stop no gate from passing."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is asked of a gate, and of how much."""

    shape: Shape
    loss: float
    """Percent."""
    examples: int
    methods: int = 1
    experts: int = 1
    judge: str = "bound"

    def __str__(self) -> str:
        told = [self.shape.name, f"{self.examples} examples, limit {self.loss:.3g} %"]
        told += [f"{self.methods} methods"] if self.methods > 1 else []
        told += [f"{self.experts} experts"] if self.experts > 1 else []
        return ", ".join(told)

    @property
    def gate(self) -> Gate:
        """The gate that holds losses to this limit."""
        return gate_of(
            {"max_loss": self.loss},
            experts=self.experts,
            methods=self.methods,
            judge=self.judge,
            metric=self.shape.metric,
        )


class Measured:
    """Verdicts on scores; on scores of 0 and 1 those of equal counts are made once."""

    def __init__(self, setting: Setting) -> None:
        self.gate = setting.gate
        self._shape = setting.shape
        self._results = Case(pool=pool_of(self.gate, labelled=True), base=base_of(self.gate))
        comparisons = Comparisons(self.gate)
        agreeing = [comparisons.of(name, [(0, 0)]) for name in self.gate.spec.experts]
        self._merges = tuple(merge_of(label, agreeing) for label in labels_of(self.gate))
        surely = np.ones(SURELY)
        self._others = [self._measured(n, surely, surely) for n in [*self.gate.spec.experts][1:]]
        self._known: dict[tuple[tuple[int, ...], ...], tuple[Judgement, ExpertScores]] = {}
        self._scores: dict[tuple[str, tuple[int, ...]], ExpertScores] = {}

    def of_first(self, own: Scores, merged: list[Scores]) -> tuple[Judgement, ExpertScores]:
        """The judgement where each method scores so on the first expert's examples, and leaves all
        others as they are; and what its first method left."""
        if self._shape not in BINARY:
            return self._judged(own, merged)
        key = tuple(tuple(_counts(own, each)) for each in merged)
        if key not in self._known:
            self._known[key] = self._judged(own, merged)
        return self._known[key]

    def _judged(self, own: Scores, merged: list[Scores]) -> tuple[Judgement, ExpertScores]:
        first = next(iter(self.gate.spec.experts))
        found = [self._scored(first, own, each) for each in merged]
        evaluations = tuple(
            EvaluateResult(method=label, experts=(one, *self._others))
            for label, one in zip(labels_of(self.gate), found, strict=True)
        )
        known = dict.fromkeys(self.gate.spec.experts, self._reference(own))
        results = replace(self._results, merges=self._merges, evaluations=evaluations, scores=known)
        return judging.judge(self.gate, results, "eval"), found[0]

    def _scored(self, name: str, own: Scores, merged: Scores) -> ExpertScores:
        if self._shape not in BINARY:
            return self._measured(name, own, merged)
        key = name, tuple(_counts(own, merged))
        if key not in self._scores:
            self._scores[key] = self._measured(name, own, merged)
        return self._scores[key]

    def _measured(self, name: str, own: Scores, merged: Scores) -> ExpertScores:
        return scored(self.gate, name, self._reference(own), merged)

    def _reference(self, own: Scores) -> ReferenceScores:
        return alone(own, np.zeros_like(own))


def _counts(own: Scores, merged: Scores) -> list[int]:
    """How often either is right, both, or neither."""
    return [int(n) for n in np.bincount((2 * own + merged).astype(int), minlength=4)]


def drawn(
    setting: Setting, rng: Rng, gates: int
) -> Iterator[tuple[Judgement, ExpertScores, float]]:
    """Judgements on losses a hair over the limit, the scores of the first, and its true loss."""
    measured, true = Measured(setting), setting.loss / 100 * (1 + HAIR)
    for _ in range(gates):
        own = setting.shape.own(rng, setting.examples)
        merged = [setting.shape.merged(rng, own, true) for _ in range(setting.methods)]
        yield *measured.of_first(own, merged), true


def broken(
    statement: Statement, nominal: float | None, setting: Setting, rng: Rng, gates: int
) -> list[Row]:
    """How often a gate passes; of a bound under one method also how often its good end is wrong."""
    found = [
        (judgement.status == "pass", _is_worse(scores, true))
        for judgement, scores, true in drawn(setting, rng, gates)
    ]
    rows = counted(statement, str(setting), nominal, (passed for passed, _ in found))
    if statement is MEASURED and setting.methods == setting.experts == 1:
        rows += counted(GOOD_END, str(setting), nominal, (wrong for _, wrong in found))
    return rows


def _is_worse(scores: ExpertScores, true: float) -> bool:
    """Whether even the good end of the interval is worse than the truth."""
    return scores.loss.interval is not None and scores.loss.interval[1] < -100 * true


def scenarios() -> Iterator[Scenario]:
    """All of them."""
    for setting in _bounds():
        yield _scenario(MEASURED, 0.025, setting)
    for shape in (RIGHT, GAINS, TWO_POINTS, OVERLAP):
        for examples in (5, 10, 20, 29) if shape in BINARY else (10, 29):
            for loss in (12, 30, *([_least(examples)] if shape is RIGHT else [])):
                few = Setting(shape=shape, loss=loss, examples=examples, judge="point")
                yield _scenario(FEW, 0.025, few)
    for shape in (RIGHT, OVERLAP):
        few = Setting(shape=shape, loss=30, examples=20, judge="point", methods=3)
        yield _scenario(FEW, 0.025, few)
        for examples in SIZES:
            point = Setting(shape=shape, loss=5, examples=examples, judge="point")
            yield _scenario(POINT, None, point)


def _least(examples: int, methods: int = 1) -> float:
    """The least limit that no lost answer stays within, for scores of 0 and 1: the one at which the
    promise is nearest to being broken."""
    bound = disagreement_bound(0, examples, confidence=1 - 0.025 / methods)
    return 100 * bound * (1 + HAIR / 10)


def _bounds() -> Iterator[Setting]:
    for shape in (*BINARY, *GRADED):
        for examples in SIZES if shape in BINARY else (30, 64, 200):
            # graded scores take longer: all limits on one size alone
            some = LOSSES if shape in BINARY or examples == 64 else (1, 30)
            yield from (Setting(shape=shape, loss=loss, examples=examples) for loss in some)
    for examples in SIZES:
        yield Setting(shape=RIGHT, loss=_least(examples), examples=examples)
    for methods in METHODS:
        for loss in (5, 30, _least(100, methods)):
            yield Setting(shape=RIGHT, loss=loss, examples=100, methods=methods)
            yield Setting(shape=GAINS, loss=loss, examples=100, methods=methods)
    yield Setting(shape=OVERLAP, loss=12, examples=64, methods=3)
    for experts in (2, 4, 8, 16):
        yield Setting(shape=RIGHT, loss=12, examples=64, experts=experts)


def _scenario(statement: Statement, nominal: float | None, setting: Setting) -> Scenario:
    cheap = setting.shape is RIGHT and setting.methods == setting.experts == 1
    return Scenario(
        statement=statement,
        label=str(setting),
        run=partial(broken, statement, nominal, setting),
        times=CHEAP if cheap else 1,
        quick=_is_quick(setting),
    )


def _is_quick(setting: Setting) -> bool:
    """A few that are near their nominal."""
    if setting.shape is OVERLAP:
        return setting.judge == "bound" and (setting.loss, setting.examples) == (1, 30)
    near = setting.shape is RIGHT and setting.judge == "bound" and setting.experts == 1
    return near and setting.loss == _least(setting.examples, setting.methods)
