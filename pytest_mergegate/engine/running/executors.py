"""Models on blocks of probes: jobs, who runs them, and the hidden states that come of it."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from pytest_mergegate.common.plain import Float32s, dump, load, result
from pytest_mergegate.engine.models.readings import loaded_as
from pytest_mergegate.engine.running.cache import Key
from pytest_mergegate.engine.running.workspace import Workspace

if TYPE_CHECKING:
    from pytest_mergegate.engine.running.engine import Engine

Kind = Literal["answers", "states"]
"""Greedy answers in tokens, or hidden states at the gate's positions."""
SIZE = 5
"""Probes in a block."""
Rows = list[Any]
"""Per input: an answer's tokens, or float32 states [T, d]."""
ROWS: dict[Kind, Any] = {"answers": list[list[int]], "states": list[Float32s]}
"""The type of rows, by which they are kept."""


@result
class Block:
    """Some probes of one task."""

    task: str
    """The expert whose inputs they are."""
    inputs: tuple[int, ...]
    """Their indices among that expert's examples."""
    answers: tuple[tuple[int, ...], ...] | None = None
    """The expert's own answers, in tokens, where states are read along them."""

    def tell(self, workspace: Workspace) -> None:
        """Let the engine know the answers, so that it need not decode them."""
        for index, answer in zip(self.inputs, self.answers or (), strict=True):
            workspace.answers[loaded_as(self.task), self.task, index] = list(answer)

    def key(self, workspace: Workspace, kind: Kind, model: str | None) -> Key:
        """Under what the results of ``model`` (None: the base) are kept: all they depend on."""
        examples = workspace.pool.examples[self.task]
        asked = [examples[index].model_dump(mode="json")["input"] for index in self.inputs]
        own = "base" if model is None else workspace.models[model]
        if kind == "answers":
            most = workspace.answer_limit
            stop = workspace.spec.experts[self.task].stop
            return workspace.key(kind, model=own, inputs=asked, max_answer_tokens=most, stop=stop)
        positions = workspace.facts.positions
        return workspace.key(
            kind, model=own, inputs=asked, positions=positions, answers=self.answers
        )


def blocks_of(task: str, inputs: Sequence[int]) -> list[Block]:
    """Inputs of one task, cut where drawing more of them would go on."""
    return [
        Block(task=task, inputs=tuple(inputs[start : start + SIZE]))
        for start in range(0, len(inputs), SIZE)
    ]


def compute(engine: "Engine", kind: Kind, blocks: Sequence[Block]) -> list[Rows]:
    """What the loaded model makes of ``blocks``, in one go."""
    asked = [(engine.tasks[block.task], block.inputs) for block in blocks]
    if kind == "answers":
        engine.answer(asked)
        return [engine.answers(task, inputs) for task, inputs in asked]
    read = engine.states(asked, engine.positions)
    return [[state.numpy() for state in states] for states in read]


Found = dict[tuple[str | None, Block], Rows]
"""By model (None: the base) and block."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model on blocks of probes."""

    kind: Kind
    model: str | None
    """An expert; None for the base."""
    blocks: tuple[Block, ...]
    answer_limit: int | None = None
    """How many tokens of an answer are decoded at most, where the job leaves the process."""


class Executor(Protocol):
    """Runs jobs; what the cache holds is not run."""

    def run(
        self, workspace: Workspace, jobs: Sequence[Job], progress: Callable[[float], None]
    ) -> Found:
        """The results of all ``jobs``. Raises PoolError."""


class LocalExecutor:
    """One model after the other, in this process."""

    def run(
        self, workspace: Workspace, jobs: Sequence[Job], progress: Callable[[float], None]
    ) -> Found:
        """See Executor."""
        results: Found = {}
        for done, job in enumerate(jobs, start=1):
            found = look_up(workspace, job)
            results |= found
            if missing := without(job, found):
                own = "base" if job.model is None else workspace.models[job.model]
                lock: dict[str, object] = {"device": workspace.device}
                if workspace.device == "cpu":  # on a GPU, one process at a time computes
                    lock = workspace.key("lock", model=own)
                with workspace.cache.lock(lock):
                    found = look_up(workspace, missing, again=True)  # another process's, by now
                    if missing := without(missing, found):
                        found |= run_job(workspace, missing)
                results |= found
            progress(done / len(jobs))
        return results


def look_up(workspace: Workspace, job: Job, *, again: bool = False) -> Found:
    """What the cache holds of ``job``, or an earlier stage has read on its way."""
    look = workspace.cache.peek if again else workspace.cache.find
    found: Found = {}
    for block in job.blocks:
        if (rows := workspace.ahead.get((job.kind, job.model, block))) is not None:
            found[job.model, block] = rows
        elif (arrays := look(block.key(workspace, job.kind, job.model))) is not None:
            found[job.model, block] = load(ROWS[job.kind], arrays)
    return found


def without(job: Job, found: Found) -> Job | None:
    """What is left of ``job``; None where that is nothing."""
    left = tuple(block for block in job.blocks if (job.model, block) not in found)
    return replace(job, blocks=left) if left else None


def run_job(workspace: Workspace, job: Job) -> Found:
    """Compute all of ``job`` with the workspace's engine, and keep it."""
    engine = workspace.engine
    with contextlib.nullcontext() if job.model is None else engine.expert(job.model):
        computed = compute(engine, job.kind, job.blocks)
        found = {(job.model, b): rows for b, rows in zip(job.blocks, computed, strict=True)}
        if job.kind == "answers":
            found |= _read_while_answering(workspace, found)
    for (model, block), rows in found.items():
        kind = _kind(block, job)
        workspace.cache.keep(block.key(workspace, kind, model), dump(ROWS[kind], rows))
    return found


def _kind(block: Block, job: Job) -> Kind:
    """Of a result: states that were read while answers were decoded come with those."""
    return "states" if block.answers is not None else job.kind


def _read_while_answering(workspace: Workspace, found: Found) -> Found:
    """The states that gave the answers that were ``found``; not those of the probes, which every
    model reads in the same way: the distances between equal models are 0."""
    states: Found = {}
    if not (workspace.facts.forced and workspace.facts.answering):
        return states
    for (model, block), answers in found.items():
        own = workspace.engine.states_at_hand(block.task, block.inputs)
        if own is not None and not set(block.inputs).intersection(workspace.probes(block.task)):
            answered = replace(block, answers=tuple(map(tuple, answers)))
            states[model, answered] = [state.numpy() for state in own]
    return states


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
        answer_whole(workspace, executor, partial(_asked, workspace, (), ahead), lambda _: None)
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
