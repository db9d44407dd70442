"""Hidden states of the base and of every expert on the probes of every task (THEORY 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.plain import Float32s, result
from pytest_mergegate.engine.running.blocks import Block, blocks_of
from pytest_mergegate.engine.running.executors import Job, look_up, without

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
    workspace: Workspace,
    executor: Executor,
    progress: Callable[[float], None],
    *,
    ahead: int = 0,
) -> HiddenStates:
    """The states of every probe under the base and every expert; what is kept is not run again.

    Where answers are forced, each expert first decodes those to its own probes; then all models
    see the same tokens. An expert that has to be put in place for it reads the first ``ahead`` of
    its own inputs as well: to put it there again would take longer. Raises PoolError.
    """
    names = workspace.pool.names
    blocks = [block for n in names for block in blocks_of(n, workspace.probes(n))]
    further = _further(workspace, blocks, ahead) if workspace.facts.forced else []
    if workspace.facts.forced:
        asked = [*blocks, *further]
        answered = answer(workspace, executor, asked, lambda f: progress(0.2 * f))
        blocks, further = answered[: len(blocks)], answered[len(blocks) :]
    jobs = [
        Job(kind="states", model=m, blocks=(*blocks, *(b for b in further if b.task == m)))
        for m in (None, *names)
    ]
    states = executor.run(workspace, jobs, lambda f: progress(0.2 + 0.8 * f))
    if ahead:
        for block in (*blocks, *further):
            workspace.ahead["states", block.task, block] = states[block.task, block]
    by_model = [[s for block in blocks for s in states[model, block]] for model in (None, *names)]
    return HiddenStates(
        names=names,
        blocks=tuple(blocks),
        base=tuple(by_model[0]),
        experts=tuple(np.stack(rows) for rows in zip(*by_model[1:], strict=True)),
    )


def _further(workspace: Workspace, blocks: Sequence[Block], ahead: int) -> list[Block]:
    """Other inputs, up to ``ahead``, of the experts whose answers to their probes are not kept."""
    own: dict[str, list[Block]] = {}
    for block in blocks:
        own.setdefault(block.task, []).append(block)
    found: list[Block] = []
    for name, probes in own.items():
        job = Job(kind="answers", model=name, blocks=tuple(probes))
        if ahead and without(job, look_up(workspace, job, again=True)):
            inputs = workspace.draws[name].order[:ahead]
            found += [block for block in blocks_of(name, inputs) if block not in probes]
    return found


def answer(
    workspace: Workspace,
    executor: Executor,
    blocks: Sequence[Block],
    progress: Callable[[float], None],
) -> list[Block]:
    """The same blocks with the answers of the experts whose inputs they are, known to the engine
    from now on. Raises PoolError."""
    by_model: dict[str, list[Block]] = {block.task: [] for block in blocks}
    for block in blocks:
        by_model[block.task].append(block)
    jobs = [Job(kind="answers", model=m, blocks=tuple(own)) for m, own in by_model.items()]
    found = executor.run(workspace, jobs, progress)
    answered = [block.answered(found[block.task, block]) for block in blocks]
    for block, own in zip(blocks, answered, strict=True):
        own.tell(workspace)
        workspace.ahead["answers", block.task, block] = found[block.task, block]
    return answered


def read_probes(engine: Engine, states: HiddenStates) -> list[Float32s]:
    """States of the loaded model where ``states`` were read, per probe [T, d]."""
    asked = [(engine.tasks[block.task], block.inputs) for block in states.blocks]
    return [s.numpy() for block in engine.states(asked, engine.positions) for s in block]
