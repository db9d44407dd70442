"""Hidden states on the probes, and the answers along which they are read."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.plain import Float32s, dump, load, result
from pytest_mergegate.engine.running.executors import (
    Block,
    Executor,
    Job,
    blocks_of,
    compute,
    look_up,
    without,
)
from pytest_mergegate.engine.running.workspace import Workspace

if TYPE_CHECKING:
    from pytest_mergegate.engine.running.engine import Engine


@result
class HiddenStates:
    """States of the base and of every expert at the probe positions of every task (THEORY 3); the
    probes of one task stand together."""

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
    further: list[Block] = []
    if workspace.facts.forced:
        asked = partial(_asked, workspace, blocks, ahead)
        answered = answer_whole(workspace, executor, asked, lambda f: progress(0.2 * f))
        blocks, further = answered[: len(blocks)], answered[len(blocks) :]
    elif ahead:  # merges will be compared along whole answers all the same
        read_own_answers(workspace, executor, ahead)
    models = (None, *names)
    jobs = [
        Job(kind="states", model=m, blocks=(*blocks, *(b for b in further if b.task == m)))
        for m in models
    ]
    states = executor.run(workspace, jobs, lambda f: progress(0.2 + 0.8 * f))
    if ahead:
        for block in (*blocks, *further):
            workspace.ahead["states", block.task, block] = states[block.task, block]
    base, *experts = ([s for b in blocks for s in states[model, b]] for model in models)
    return HiddenStates(
        names=names,
        blocks=tuple(blocks),
        base=tuple(base),
        experts=tuple(np.stack(rows) for rows in zip(*experts, strict=True)),
    )


def read_own_answers(workspace: Workspace, executor: Executor, inputs: int) -> None:
    """Have the experts' answers to the first ``inputs`` of their own decoded, none of them cut as
    far as the gate allows. Raises PoolError."""
    answer_whole(workspace, executor, partial(_asked, workspace, (), inputs), lambda _: None)


def _asked(
    workspace: Workspace, blocks: Sequence[Block], ahead: int, *, every: bool
) -> list[Block]:
    """The probes, and other inputs, up to ``ahead``, of the experts whose answers to their probes
    are not kept, or of ``every`` one."""
    found: list[Block] = []
    for name in workspace.pool.names if ahead else ():
        probes = tuple(block for block in blocks if block.task == name)
        job = Job(kind="answers", model=name, blocks=probes)
        if every or without(job, look_up(workspace, job, again=True)):
            own = blocks_of(name, workspace.draws[name].order[:ahead])
            found += [block for block in own if block not in probes]
    return [*blocks, *found]


def answer_whole(
    workspace: Workspace,
    executor: Executor,
    asked: Callable[..., list[Block]],
    progress: Callable[[float], None],
) -> list[Block]:
    """The blocks that are ``asked`` with the answers of their experts, none of them cut: the limit
    on answers is raised while one that is read as text reaches it, as far as the gate allows.
    Raises PoolError."""
    probes = workspace.spec.probes
    is_text = {name: draw.reading == "greedy" for name, draw in workspace.draws.items()}
    if probes.answer_limit == probes.longest_answer or not any(is_text.values()):
        return answer(workspace, executor, asked(every=False), progress)
    key = workspace.key(
        "answer limit",
        asked=[block.key(workspace, "answers", block.task) for block in asked(every=True)],
    )
    if (kept := workspace.cache.peek(key)) is not None:
        workspace.let_answers_grow(load(int, kept))
        return answer(workspace, executor, asked(every=False), progress)
    while True:
        answered = answer(workspace, executor, asked(every=True), progress)
        texts = [block for block in answered if is_text[block.task]]
        longest = max(len(own) for block in texts for own in block.answers or ())
        if longest < workspace.answer_limit or workspace.answer_limit == probes.longest_answer:
            workspace.cache.keep(key, dump(int, workspace.answer_limit))
            return answered
        grown = min(2 * workspace.answer_limit, probes.longest_answer)
        workspace.let_answers_grow(grown)


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
    for (model, block), rows in found.items():
        workspace.ahead["answers" if block.answers is None else "states", model, block] = rows
    answered = [replace(b, answers=tuple(map(tuple, found[b.task, b]))) for b in blocks]
    for block in answered:
        block.tell(workspace)
    return answered


def read_probes(engine: "Engine", states: HiddenStates) -> list[Float32s]:
    """States of the loaded model where ``states`` were read, per probe [T, d]."""
    return [state for rows in compute(engine, "states", states.blocks) for state in rows]
