"""Hidden states of the base and of every expert on the probes of every task (THEORY 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.engine.engine import teacher_forced
from pytest_mergegate.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.engine.tasks import Task

StateArray = NDArray[np.float32]
Sequences = tuple[list[tuple[int, ...]], list[tuple[int, int]]]


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


def collect_states(
    engine: Engine, positions: str, progress: Callable[[float], None]
) -> HiddenStates:
    """Run every probe through the base and every expert.

    Each expert first decodes the answers to its own probes; then all models see the same tokens.
    """
    tasks = list(engine.tasks.values())
    steps = 2 * len(tasks) + 1
    for done, task in enumerate(tasks, start=1):
        if positions == "answer":
            with engine.expert(task.name):
                engine.answers(task, task.probes)
        progress(done / steps)
    sequences, spans = probe_sequences(engine, positions)
    base = _read(engine, sequences, spans, positions)
    by_expert = []
    for done, task in enumerate(tasks, start=len(tasks) + 2):
        with engine.expert(task.name):
            by_expert.append(_read(engine, sequences, spans, positions))
        progress(done / steps)
    return HiddenStates(
        names=tuple(engine.tasks),
        tasks=tuple(task.name for task in tasks for _ in task.probes),
        inputs=tuple(index for task in tasks for index in task.probes),
        base=tuple(base),
        experts=tuple(np.stack(states) for states in zip(*by_expert, strict=True)),
    )


def probe_sequences(engine: Engine, positions: str) -> Sequences:
    """Token sequences of all probes and the spans whose states are read."""
    sequences, spans = [], []
    for task in engine.tasks.values():
        for index in task.probes:
            sequence, span = _sequence(engine, task, index, positions)
            sequences.append(sequence)
            spans.append(span)
    return sequences, spans


def read_probes(engine: Engine, positions: str) -> list[StateArray]:
    """States of the loaded model at the probe positions, per probe [T, d]."""
    sequences, spans = probe_sequences(engine, positions)
    return _read(engine, sequences, spans, positions)


def _sequence(
    engine: Engine, task: Task, index: int, positions: str
) -> tuple[tuple[int, ...], tuple[int, int]]:
    prompt = task.prompts[index]
    match positions:
        case "answer":
            return teacher_forced(task, index, engine.answers_of(task.name, [index])[0])
        case "last":
            return prompt, (len(prompt) - 1, len(prompt))
        case "mean":
            return prompt, (0, len(prompt))
        case _:
            raise PoolError(
                f"probes.positions {positions!r} needs a classification head",
                code="MG203",
                fix="use answer, last or mean for a causal language model",
            )


def _read(
    engine: Engine,
    sequences: Sequence[tuple[int, ...]],
    spans: Sequence[tuple[int, int]],
    positions: str,
) -> list[StateArray]:
    states = engine.model.states(sequences, spans)
    return [_pooled(state, positions) for state in states]


def _pooled(state: Tensor, positions: str) -> StateArray:
    array: StateArray = state.numpy()
    if positions == "mean":
        array = array.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    return array
