"""Hidden states of the base and of every expert on the probes of every task (THEORY 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_mergegate.engine.engine import Engine

StateArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """States at the probe positions; the probes of one task stand together."""

    names: tuple[str, ...]
    """The experts, in the order of the arrays' first axis."""
    tasks: tuple[str, ...]
    """Per probe, the expert whose input it is."""
    inputs: tuple[int, ...]
    """Per probe, its index among that expert's examples."""
    base: tuple[StateArray, ...]
    """Per probe [T, d]."""
    experts: tuple[StateArray, ...]
    """Per probe [N, T, d]."""

    def own(self, name: str) -> list[int]:
        """The probes that are expert ``name``'s own inputs."""
        return [k for k, task in enumerate(self.tasks) if task == name]


def collect_states(engine: Engine, progress: Callable[[float], None]) -> HiddenStates:
    """Run every probe through the base and every expert.

    Where answers are forced, each expert first decodes those to its own probes; then all models
    see the same tokens.
    """
    tasks = list(engine.tasks.values())
    steps = 2 * len(tasks) + 1
    for done, task in enumerate(tasks, start=1):
        if engine.positions in engine.model.forced_positions:
            with engine.expert(task.name):
                engine.answers(task, task.probes)
        progress(done / steps)
    base = read_probes(engine)
    by_expert = []
    for done, task in enumerate(tasks, start=len(tasks) + 2):
        with engine.expert(task.name):
            by_expert.append(read_probes(engine))
        progress(done / steps)
    return HiddenStates(
        names=tuple(engine.tasks),
        tasks=tuple(task.name for task in tasks for _ in task.probes),
        inputs=tuple(index for task in tasks for index in task.probes),
        base=tuple(base),
        experts=tuple(np.stack(states) for states in zip(*by_expert, strict=True)),
    )


def read_probes(engine: Engine) -> list[StateArray]:
    """States of the loaded model at the gate's positions, per probe [T, d]."""
    rows = [
        engine.row(task, index, engine.positions)
        for task in engine.tasks.values()
        for index in task.probes
    ]
    return [state.numpy() for state in engine.model.states(rows, engine.positions)]
