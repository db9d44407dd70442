"""Blocks of probes: what is computed, kept and handed about as one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_mergegate.common.plain import Float32s, result
from pytest_mergegate.engine.models.readings import loaded_as

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.entries import Key
    from pytest_mergegate.engine.running.workspace import Workspace

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

    def answered(self, answers: Sequence[Sequence[int]]) -> Block:
        """The same probes with their answers known."""
        return replace(self, answers=tuple(map(tuple, answers)))

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
            most = workspace.spec.probes.max_answer_tokens
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


def compute(engine: Engine, kind: Kind, blocks: Sequence[Block]) -> list[Rows]:
    """What the loaded model makes of ``blocks``, in one go."""
    if kind == "answers":
        for task in dict.fromkeys(block.task for block in blocks):  # all at once, then by block
            inputs = [i for block in blocks if block.task == task for i in block.inputs]
            engine.answers(engine.tasks[task], inputs)
        return [engine.answers(engine.tasks[block.task], block.inputs) for block in blocks]
    positions = engine.positions
    rows = [
        engine.row(engine.tasks[block.task], index, positions)
        for block in blocks
        for index in block.inputs
    ]
    states = iter(engine.model.states(rows, positions))
    return [[next(states).numpy() for _ in block.inputs] for block in blocks]
