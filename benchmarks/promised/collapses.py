"""Limits that the registry sets, held against collapses of pools that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from promised.gates import Comparisons, base_of, gate_of, labels_of, merge_of, pool_of
from promised.records import Fate, Kind
from promised.rows import Row, Scenario, Statement, counted
from pytest_mergegate.history.calibration.observations import COLLAPSE, Observation, observations
from pytest_mergegate.verdict import judge as judging
from pytest_mergegate.verdict.evidence import Case
from pytest_mergegate.verdict.past_merges import resolve_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.gate.gatefile import Gate

    Rng = np.random.Generator

AUTOMATIC = Statement(
    name="auto",
    text="A gate with `max_disagreement: auto@RATE` passes a merge of a new pool in which an "
    "expert collapsed.",
)
STATEMENTS = (AUTOMATIC,)


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
        limited, found = resolve_limits(gate, pool, _recorded(setting, gate, rng))
        least = min(fate.compared(rng) for fate in setting.fates(rng))
        experts = [comparisons.of("e0", [(least, 0)]), comparisons.of("e1", [(0, 0)])]
        results = Case(
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
    for rate, pools in ((0.1, 9), (0.1, 20), (0.2, 9), (0.25, 7), (0.05, 19)):
        for clustered in (False, True):
            setting = Collapses(rate=rate, pools=pools, clustered=clustered)
            yield Scenario(
                statement=AUTOMATIC,
                label=str(setting),
                run=partial(missed, setting),
                quick=clustered and pools == 9,
            )
