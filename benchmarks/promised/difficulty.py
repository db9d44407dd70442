"""Statements about MDS: its interval, and gates that draw more probes until it is decided."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from promised.gates import HAIR, gate_of, pool_of, with_limit
from promised.rows import Row, Scenario, Statement, counted
from pytest_mergegate import metrics
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.stages import hidden
from pytest_mergegate.stages.pool_parts import compare_experts
from pytest_mergegate.verdict import judge as judging
from pytest_mergegate.verdict.evidence import Case, budget_questions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from pytest_mergegate.common.values import Interval
    from pytest_mergegate.gate.gatefile import Gate

    Floats = npt.NDArray[np.float64]
    Rng = np.random.Generator

COVERAGE = Statement(
    name="mds-interval",
    text="The 95 % interval of one expert's MDS does not hold the MDS of all inputs there are.",
)
BOUND = Statement(
    name="mds-bound",
    text="With `max_mds` and `judge: bound`, one expert passes though its MDS on all inputs there "
    "are is a hair over the limit.",
)
SEQUENTIAL = Statement(
    name="mds-looks",
    text="Where probes are drawn until an MDS is clear of its limit, one expert passes by "
    "`judge: bound` though its MDS on all inputs there are is a hair over the limit.",
)
STATEMENTS = (COVERAGE, BOUND, SEQUENTIAL)


@dataclass(frozen=True, kw_only=True)
class World:
    """What states would be on all inputs there are."""

    distances: Floats
    """Mean distances by task, shape [N, N, N]."""
    noise: float

    @classmethod
    def drawn(cls, rng: Rng, experts: int, tied: bool) -> World:
        """Experts here and there; where they are ``tied`` all are nearly as far apart, so that
        chance decides which pair is the farthest."""
        spread = 0.1 if tied else 1.0
        apart = 1 + spread * rng.uniform(-0.7, 0.7, (experts, experts))
        by_task = apart * rng.uniform(0.8, 1.2, (experts, experts, experts))
        upper = np.triu(by_task, 1)
        return cls(distances=upper + upper.transpose(0, 2, 1), noise=0.5)

    @property
    def difficulty(self) -> Floats:
        """Every expert's true MDS."""
        similarity = metrics.hidden_similarity(self.distances.mean(axis=0))
        return metrics.merging_difficulty(similarity)

    def probes(self, rng: Rng, per_task: int) -> Floats:
        """Distances on some probes of each task, shape [tasks, per_task, N, N], of these means; a
        part of the noise is the probe's own, the rest the pair's."""
        experts = len(self.distances)
        shape = (experts, per_task, experts, experts)
        pair = np.triu(rng.gamma(1 / self.noise**2, self.noise**2, shape), 1)
        own = rng.gamma(4, 1 / 4, (experts, per_task, 1, 1))
        return self.distances[:, None] * own * (pair + pair.swapaxes(2, 3))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is asked of a gate, and of how much."""

    experts: int
    probes: int
    most: int | None = None
    tied: bool = False

    def __str__(self) -> str:
        probes = f"{self.probes} to {self.most}" if self.most else f"{self.probes}"
        kind = "nearly as far from each other" if self.tied else "here and there"
        return f"{self.experts} experts {kind}, {probes} probes per task"

    @property
    def gate(self) -> Gate:
        """The gate, whose limit is still to be set."""
        most = {"max_per_task": self.most} if self.most else {}
        return gate_of(
            {"max_mds": 1.0},
            experts=self.experts,
            judge="bound",
            probes={"per_task": self.probes, **most},
        )


class Drawn:
    """What a workspace knows of probes; how more are drawn is the workspace's own."""

    draw_more = Workspace.draw_more

    def __init__(self, gate: Gate) -> None:
        self.spec = gate.spec
        self.per_task = gate.spec.probes.per_task
        most = gate.spec.probes.max_per_task or self.per_task
        self.draws = dict.fromkeys(gate.spec.experts, tuple(range(most)))

    def probes(self, name: str) -> tuple[int, ...]:
        """Those drawn so far."""
        return self.draws[name][: self.per_task]


def found_by(gate: Gate, distances: Floats) -> Any:
    """Stage 3, as the gate comes to it: with more probes as long as it asks for more."""

    workspace: Any = Drawn(gate)

    def look() -> Any:
        return _hidden(gate, distances[:, : workspace.per_task])

    decisions = budget_questions(gate.spec, pool_of(gate), "hidden")
    return hidden.until_decided(look, workspace, decisions)


def _hidden(gate: Gate, distances: Floats) -> Any:
    names = tuple(gate.spec.experts)
    tasks = [name for name in names for _ in range(distances.shape[1])]
    per_probe = distances.reshape(-1, len(names), len(names))
    found = compare_experts(names, per_probe, tasks, gate.spec)
    return SimpleNamespace(experts={n: SimpleNamespace(mds=mds) for n, mds in found.mds.items()})


def broken(setting: Setting, rng: Rng, gates: int) -> list[Row]:
    """How often an interval does not hold the truth, and an expert passes that should not."""
    unlimited, missed, passed = setting.gate, [], []
    for _ in range(gates):
        world = World.drawn(rng, setting.experts, setting.tied)
        place = int(rng.integers(setting.experts))
        true = float(world.difficulty[place])
        gate = with_limit(unlimited, "max_mds", true / (1 + HAIR))
        stage = found_by(gate, world.probes(rng, setting.most or setting.probes))
        results = Case(pool=pool_of(gate), hidden=stage)
        passed.append(judging.judge(gate, results, "hidden").verdicts[place].status == "pass")
        missed.append(not _holds(stage.experts[f"e{place}"].mds.interval, true))
    name = str(setting)
    if setting.most:
        return counted(SEQUENTIAL, name, 0.025, passed)
    return counted(COVERAGE, name, 0.05, missed) + counted(BOUND, name, 0.025, passed)


def _holds(interval: Interval | None, true: float) -> bool:
    """No interval is none that is wrong."""
    return interval is None or interval[0] <= true <= interval[1]


def scenarios() -> Iterator[Scenario]:
    """All of them."""
    for experts in (3, 5, 8):
        yield _scenario(COVERAGE, Setting(experts=experts, probes=5))
        for probes in (3, 5, 10, 20) if experts < 8 else (3, 5, 10):
            yield _scenario(COVERAGE, Setting(experts=experts, probes=probes, tied=True))
    for experts, probes, most in ((3, 5, 20), (5, 3, 12)):
        looking = Setting(experts=experts, probes=probes, most=most, tied=True)
        yield _scenario(SEQUENTIAL, looking)


def _scenario(statement: Statement, setting: Setting) -> Scenario:
    return Scenario(
        statement=statement,
        label=str(setting),
        run=partial(broken, setting),
        quick=(setting.experts, setting.probes, setting.most) == (3, 5, None) and not setting.tied,
    )
