"""Hidden states of the base and of every expert on the probes of every task (THEORY 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.plain import Float32s, result
from pytest_mergegate.engine.running.executors import Block, Job, blocks_of, compute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.executors import Executor
    from pytest_mergegate.engine.running.workspace import Workspace


@result
class HiddenStates:
    """States at the probe positions; the probes of one task stand together."""

    names: tuple[str, ...]
    """The experts, in the order of the arrays' first axis."""
    blocks: tuple[Block, ...]
    """The probes, and the answers along which they were read."""
    base: tuple[Float32s, ...]
    """Per probe [T, d]."""
    experts: tuple[Float32s, ...]
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
    blocks = [block for n in names for block in blocks_of(n, workspace.probes(n))]
    if workspace.facts.forced:
        blocks = answer(workspace, executor, blocks, lambda f: progress(0.2 * f))
    models = (None, *names)
    jobs = [Job(kind="states", model=model, blocks=tuple(blocks)) for model in models]
    states = executor.run(workspace, jobs, lambda f: progress(0.2 + 0.8 * f))
    base, *experts = ([s for b in blocks for s in states[model, b]] for model in models)
    return HiddenStates(
        names=names,
        blocks=tuple(blocks),
        base=tuple(base),
        experts=tuple(np.stack(rows) for rows in zip(*experts, strict=True)),
    )


def answer(
    workspace: Workspace,
    executor: Executor,
    blocks: Sequence[Block],
    progress: Callable[[float], None],
) -> list[Block]:
    """The same blocks with the answers of the experts whose inputs they are, known to the engine
    from now on. Raises PoolError."""
    jobs = [
        Job(kind="answers", model=name, blocks=tuple(b for b in blocks if b.task == name))
        for name in dict.fromkeys(block.task for block in blocks)
    ]
    found = executor.run(workspace, jobs, progress)
    answered = [replace(b, answers=tuple(map(tuple, found[b.task, b]))) for b in blocks]
    for block in answered:
        block.tell(workspace)
    return answered


def read_probes(engine: Engine, states: HiddenStates) -> list[Float32s]:
    """States of the loaded model where ``states`` were read, per probe [T, d]."""
    return [state for rows in compute(engine, "states", states.blocks) for state in rows]
