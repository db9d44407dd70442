"""Hidden states of the base and of every expert on the probes of every task (THEORY 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.engine.blocks import Block, blocks_of
from pytest_mergegate.engine.executors import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.engine.executors import Executor
    from pytest_mergegate.engine.workspace import Workspace

StateArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """States at the probe positions; the probes of one task stand together."""

    names: tuple[str, ...]
    """The experts, in the order of the arrays' first axis."""
    blocks: tuple[Block, ...]
    """The probes, and the answers along which they were read."""
    base: tuple[StateArray, ...]
    """Per probe [T, d]."""
    experts: tuple[StateArray, ...]
    """Per probe [N, T, d]."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Per probe, the expert whose input it is."""
        return tuple(block.task for block in self.blocks for _ in block.inputs)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Per probe, its index among that expert's examples."""
        return tuple(index for block in self.blocks for index in block.inputs)

    def own(self, name: str) -> list[int]:
        """The probes that are expert ``name``'s own inputs."""
        return [k for k, task in enumerate(self.tasks) if task == name]


def collect_states(
    workspace: Workspace, executor: Executor, progress: Callable[[float], None]
) -> HiddenStates:
    """The states of every probe under the base and every expert; what is kept is not run again.

    Where answers are forced, each expert first decodes those to its own probes; then all models
    see the same tokens. Raises PoolError.
    """
    names = workspace.pool.names
    blocks = [block for name in names for block in blocks_of(workspace, name)]
    if workspace.facts.forced:
        wanted = [Job(kind="answers", model=b.task, blocks=(b,)) for b in blocks]
        found = executor.run(workspace, _joined(wanted), lambda f: progress(0.2 * f))
        blocks = [block.answered(found[block.task, block]) for block in blocks]
        for block in blocks:
            block.tell(workspace)
    jobs = [Job(kind="states", model=model, blocks=tuple(blocks)) for model in (None, *names)]
    states = executor.run(workspace, jobs, lambda f: progress(0.2 + 0.8 * f))
    by_model = [[s for block in blocks for s in states[model, block]] for model in (None, *names)]
    return HiddenStates(
        names=names,
        blocks=tuple(blocks),
        base=tuple(by_model[0]),
        experts=tuple(np.stack(rows) for rows in zip(*by_model[1:], strict=True)),
    )


def _joined(jobs: Sequence[Job]) -> list[Job]:
    """One job per model: its weights are put in place once."""
    by_model: Mapping[str | None, list[Block]] = {job.model: [] for job in jobs}
    for job in jobs:
        by_model[job.model].extend(job.blocks)
    return [
        Job(kind=jobs[0].kind, model=model, blocks=tuple(blocks))
        for model, blocks in by_model.items()
    ]


def read_probes(engine: Engine, states: HiddenStates) -> list[StateArray]:
    """States of the loaded model where ``states`` were read, per probe [T, d]."""
    rows = [
        engine.row(engine.tasks[task], index, engine.positions)
        for task, index in zip(states.tasks, states.inputs, strict=True)
    ]
    return [state.numpy() for state in engine.model.states(rows, engine.positions)]
