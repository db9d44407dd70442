"""What some weighting of the pool would answer: forecast from stored states, or tried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pytest_mergegate.engine.comparison import Agreement, compare
from pytest_mergegate.metrics import mix_states

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.engine.headed import Head
    from pytest_mergegate.engine.hidden_states import HiddenStates, StateArray


class WhatIf:
    """Answers of θ_0 + Σ λ_j τ_j for any λ, on each expert's own probes."""

    def __init__(self, engine: Engine, states: HiddenStates) -> None:
        self._engine = engine
        self._model = engine.require_head()
        self._states = states
        self._options = {n: _first_tokens(engine, states, n) for n in states.names}
        self._own = {
            n: self._scores(n, self._expert_states(n), engine.mixed_head({n: 1.0}))
            for n in states.names
        }

    def reading(self, expert: str) -> str:
        """How ``expert``'s answers are compared: as its task says, or the choices' first token."""
        if self._options[expert] is None or self._model.labels is not None:
            return self._engine.tasks[expert].reading
        return "first_token"

    def forecast(self, expert: str, scales: Mapping[str, float]) -> Agreement | None:
        """Expert ``expert`` against ĥ = h_0 + Σ λ_j (h_j − h_0), from stored states (THEORY 6).

        ``scales`` are the λ_j; an expert that is absent is left out of the merge. None where the
        choices of an input share their first token, which this reading cannot tell apart.
        """
        if self._options[expert] == ():
            return None
        own = self._states.own(expert)
        weights = np.array([scales.get(name, 0.0) for name in self._states.names])
        mixed = mix_states(
            [self._states.experts[k] for k in own], [self._states.base[k] for k in own], weights
        )
        merged = [torch.from_numpy(state.astype(np.float32)) for state in mixed]
        head = self._engine.mixed_head(scales)
        return compare(self._own[expert], self._scores(expert, merged, head))

    def trial(self, scales: Mapping[str, float]) -> dict[str, Agreement | None]:
        """Every expert in ``scales`` against the model with those weights, put together and run.

        For a linear merge this is the merge itself, on few inputs.
        """
        pairs = [(name, k) for name in scales for k in self._states.own(name)]
        tasks, positions = self._engine.tasks, self._model.answer_positions
        rows = [
            self._engine.row(tasks[name], self._states.inputs[k], positions) for name, k in pairs
        ]
        with self._model.swapped("trial", self._engine.mixed_weights(scales)):
            states = self._model.states(rows, positions)
            found: dict[str, Agreement | None] = {}
            for name in scales:
                if self._options[name] == ():
                    found[name] = None
                    continue
                own = [s for (owner, _), s in zip(pairs, states, strict=True) if owner == name]
                found[name] = compare(self._own[name], self._scores(name, own, None))
        return found

    def _expert_states(self, name: str) -> list[Tensor]:
        row = self._states.names.index(name)
        arrays: list[StateArray] = [self._states.experts[k][row] for k in self._states.own(name)]
        return [torch.from_numpy(array) for array in arrays]

    def _scores(self, expert: str, states: Sequence[Tensor], head: Head | None) -> list[Tensor]:
        options = self._options[expert]
        logits = self._model.logits
        if options is None:
            return [logits(state, head) for state in states]
        return [
            logits(state[:1], head)[:, list(tokens)]
            for state, tokens in zip(states, options, strict=False)
        ]


def _first_tokens(
    engine: Engine, states: HiddenStates, expert: str
) -> tuple[tuple[int, ...], ...] | None:
    """Per own probe the first token of each choice; empty where two choices share one."""
    task = engine.tasks[expert]
    if task.choices is None:
        return None
    firsts = []
    for k in states.own(expert):
        tokens = tuple(choice[0] for choice in task.choices[states.inputs[k]])
        if len(set(tokens)) != len(tokens):
            return ()
        firsts.append(tokens)
    return tuple(firsts)
