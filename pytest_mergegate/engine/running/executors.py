"""Models on blocks of probes: jobs, who runs them, and the hidden states that come of it."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_mergegate.common.plain import Float32s, dump, load, result
from pytest_mergegate.engine.models.readings import loaded_as
from pytest_mergegate.engine.running.cache import Arrays, Key
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.gate.gatefile import Gate

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

    @property
    def label(self) -> str:
        """What errors call it."""
        return "base" if self.model is None else f"expert {self.model!r}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Errand:
    """Work of another kind, for any process that has the base."""

    kind: str
    name: str
    key: Key
    """All that the result depends on."""
    function: Callable[[Gate, Workspace, str, Any], tuple[Key, Arrays]]
    """Of a module, so that another process has it too: from ``name`` and what is ``given``, the
    result in the cache's form, and its key as seen there."""
    given: Any = None
    """The same for all errands: where it is, once it is shared."""

    @property
    def model(self) -> str:
        """What it puts in place; no expert's name has a space."""
        return self.label

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"{self.kind} {self.name!r}"


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
