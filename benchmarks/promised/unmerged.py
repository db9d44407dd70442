"""Statements about what is no evidence of a merge: a base that would pass, and a weak expert."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from promised.gates import Comparisons, base_of, gate_of, labels_of, merge_of, pool_of
from promised.losses import Measured, Setting
from promised.rows import Row, Scenario, Statement, counted
from promised.shapes import RIGHT
from pytest_mergegate.verdict import judge as judging
from pytest_mergegate.verdict.evidence import Case

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.stages.measured import ReferenceScores
    from pytest_mergegate.verdict.judge import Judgement

    Scores = npt.NDArray[np.float64]
    Rng = np.random.Generator

VACUOUS = Statement(
    name="base",
    text="A gate passes though the base, with nothing merged, is within the limit of one expert.",
)
WEAK = Statement(
    name="min-score",
    text="A gate passes though one expert does not reach its own `min_score`.",
)
STATEMENTS = (VACUOUS, WEAK)
INPUTS = 64


def unlabelled(budget: str, judge: str, rng: Rng, gates: int) -> list[Row]:
    """How often a gate passes on merges that change little, where the base changes little too."""
    limits = (0.3, 30.0) if budget == "max_loss" else (0.3, 0.3)
    gate = gate_of({budget: limits[1]}, judge=judge, certificate={"per_task": INPUTS})
    most, passed = int(limits[0] * INPUTS), []
    for differing, base in rng.integers(0, most + 1, (gates, 2)).tolist():
        passed.append(_passes(gate, differing, base))
    return counted(VACUOUS, f"{budget} without labels, judge: {judge}", 0.0, passed)


def _passes(gate: Gate, differing: int, base: int) -> bool:
    comparisons = Comparisons(gate)
    experts = [comparisons.of("e0", [(differing, 0)]), comparisons.of("e1", [(0, 0)])]
    alone = base_of(gate) | {"e0": base_of(gate, base / INPUTS, INPUTS)["e0"]}
    merges = (merge_of(labels_of(gate)[0], experts),)
    results = Case(pool=pool_of(gate), merges=merges, base=alone)
    return judging.judge(gate, results, "merge").status == "pass"


def labelled(judge: str, rng: Rng, gates: int) -> list[Row]:
    """The same of measured losses."""
    setting = Setting(shape=RIGHT, loss=30, examples=INPUTS, judge=judge)
    measured, passed = WithBase(setting), []
    for base_lost, lost in rng.uniform(0, 0.3, (gates, 2)).tolist():
        own = setting.shape.own(rng, INPUTS)
        base = own * (np.arange(INPUTS) >= int(base_lost * INPUTS))
        merged = setting.shape.merged(rng, own, lost)
        passed.append(measured.against(base, own, merged).status == "pass")
    return counted(VACUOUS, f"max_loss with labels, judge: {judge}", 0.0, passed)


class WithBase(Measured):
    """Scores of the first expert beside those of a base."""

    base: Scores = np.zeros(0)

    def against(self, base: Scores, own: Scores, merged: Scores) -> Judgement:
        """The judgement where the base scores so; nothing is kept, for others differ in that."""
        self.base = base
        return self._judged(own, [merged])[0]

    def _reference(self, own: Scores) -> ReferenceScores:
        known = super()._reference(own)
        return replace(known, base=self.base) if own.size == self.base.size else known


def weak(rng: Rng, gates: int) -> list[Row]:
    """How often a gate passes on merges that change nothing, whose expert is known to score less
    than it must, or not known to score at all."""
    gate, passed = gate_of({"max_disagreement": 0.3}), []
    for needed, known in rng.uniform(0.01, 1, (gates, 2)).tolist():
        given = {"score": needed * known} if known > 0.2 else {}
        passed.append(_passes(asking(gate, {"min_score": needed, **given}), 0, INPUTS))
    return counted(WEAK, "max_disagreement, the score given or not known", 0.0, passed)


def asking(gate: Gate, what: Mapping[str, float]) -> Gate:
    """The gate that asks this of its first expert."""
    first = gate.spec.experts["e0"].model_copy(update=dict(what))
    experts = gate.spec.experts | {"e0": first}
    return replace(gate, spec=gate.spec.model_copy(update={"experts": experts}))


def scenarios() -> Iterator[Scenario]:
    """All of them."""
    for judge in ("point", "bound"):
        for budget in ("max_disagreement", "max_loss"):
            yield _scenario(f"{budget} {judge}", partial(unlabelled, budget, judge))
        yield _scenario(f"labelled {judge}", partial(labelled, judge))
    yield Scenario(statement=WEAK, label="given", run=weak, quick=True)


def _scenario(label: str, run: partial[list[Row]]) -> Scenario:
    return Scenario(statement=VACUOUS, label=label, run=run, quick=True)
