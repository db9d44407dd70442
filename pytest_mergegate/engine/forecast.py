"""What some weighting of the pool would answer: forecast from stored states, or tried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pytest_mergegate.engine.comparison import Agreement, compare
from pytest_mergegate.engine.engine import teacher_forced
from pytest_mergegate.metrics import mix_states

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.engine.hidden_states import HiddenStates, StateArray


class WhatIf:
    """Answers of θ_0 + Σ λ_j τ_j for any λ, on each expert's own probes."""

    def __init__(self, engine: Engine, states: HiddenStates) -> None:
        self._engine = engine
        self._states = states
        self._options = {n: _first_tokens(engine, states, n) for n in states.names}
        self._own = {
            n: self._scores(n, self._expert_states(n), self._head(n)) for n in states.names
        }

    def reading(self, expert: str) -> str:
        """How ``expert``'s answers are compared: ``greedy``, or the choices' ``first_token``."""
        return "greedy" if self._options[expert] is None else "first_token"

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
        return compare(self._own[expert], self._scores(expert, merged, self._mixed_head(scales)))

    def trial(self, scales: Mapping[str, float]) -> dict[str, Agreement | None]:
        """Every expert in ``scales`` against the model with those weights, put together and run.

        For a linear merge this is the merge itself, on few inputs.
        """
        pairs = [(name, k) for name in scales for k in self._states.own(name)]
        runs = [self._run(name, self._states.inputs[k]) for name, k in pairs]
        with self._engine.model.swapped("trial", self._weights(scales)):
            states = self._engine.model.states([r[0] for r in runs], [r[1] for r in runs])
            found: dict[str, Agreement | None] = {}
            for name in scales:
                if self._options[name] == ():
                    found[name] = None
                    continue
                own = [s for (owner, _), s in zip(pairs, states, strict=True) if owner == name]
                found[name] = compare(self._own[name], self._scores(name, own, None))
        return found

    def _run(self, name: str, index: int) -> tuple[tuple[int, ...], tuple[int, int]]:
        answer = self._engine.answers_of(name, [index])[0]
        return teacher_forced(self._engine.tasks[name], index, answer)

    def _weights(self, scales: Mapping[str, float]) -> dict[str, Tensor]:
        model, vectors = self._engine.model, self._engine.vectors
        weights = {}
        for parameter in vectors.parameters(*scales):
            total = model.base_weight(parameter)
            for name, scale in scales.items():
                delta = vectors.delta(name, parameter)
                if delta is not None:
                    total = total + scale * delta
            weights[parameter] = total
        return weights

    def _expert_states(self, name: str) -> list[Tensor]:
        row = self._states.names.index(name)
        arrays: list[StateArray] = [self._states.experts[k][row] for k in self._states.own(name)]
        return [torch.from_numpy(array) for array in arrays]

    def _scores(self, expert: str, states: Sequence[Tensor], head: Tensor | None) -> list[Tensor]:
        options = self._options[expert]
        logits = self._engine.model.logits
        if options is None:
            return [logits(state, head) for state in states]
        return [
            logits(state[:1], head)[:, list(tokens)]
            for state, tokens in zip(states, options, strict=False)
        ]

    def _head(self, expert: str) -> Tensor | None:
        return self._engine.head_weight(expert)

    def _mixed_head(self, scales: Mapping[str, float]) -> Tensor | None:
        model, vectors = self._engine.model, self._engine.vectors
        total: Tensor | None = None
        for name, scale in scales.items():
            delta = vectors.delta(name, model.head_parameter)
            if delta is not None:
                total = model.base_weight(model.head_parameter) if total is None else total
                total = total + scale * delta
        return total


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
