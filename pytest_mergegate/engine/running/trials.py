"""What some weighting of the pool would answer: forecast from stored states, or tried out."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mergegate.engine.running.references import Agreement, agreement_of
from pytest_mergegate.metrics import mix_states

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.headed import Head, HeadedModel
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.probes import HiddenStates
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.engine.running.workspace import Workspace


class Trials:
    """Answers of θ_0 + Σ λ_j τ_j for any λ, on each expert's own probes; each worked out once."""

    def __init__(self, workspace: Workspace, states: HiddenStates) -> None:
        self._workspace = workspace
        self._states = states
        self._tried: dict[tuple[tuple[tuple[str, float], ...], str], Agreement | None] = {}

    def forecast(self, expert: str, scales: Mapping[str, float]) -> tuple[str, Agreement | None]:
        """How answers are read, and expert ``expert`` against ĥ = h_0 + Σ λ_j (h_j − h_0), from
        stored states (THEORY 6). States tell which tokens differ and not what is said instead:
        their distances are exact ones, however the expert's answers are compared.

        ``scales`` are the λ_j; an expert that is absent is left out of the merge. None where the
        choices of an input share their first token, which this reading cannot tell apart.
        """
        key = self._workspace.key(
            "forecast", of=self._described(expert), scales=self._identified(scales)
        )
        return self._workspace.cache.kept(
            tuple[str, Agreement | None],
            key,
            lambda: (self._answers.reading(expert), self._answers.forecast(expert, scales)),
        )

    def trial(
        self, scales: Mapping[str, float], of: Sequence[str] | None = None
    ) -> dict[str, Agreement | None]:
        """The experts in ``scales``, or those ``of`` them that are asked for, against the model
        with those weights, put together and run.

        For a linear merge this is the merge itself, on few inputs.
        """
        workspace, weights = self._workspace, tuple(scales.items())
        names = [*(scales if of is None else of)]
        asked = [name for name in names if (weights, name) not in self._tried]
        keys = {
            name: workspace.key(
                "trial",
                of=self._described(name),
                scales=self._identified(scales),
                max_answer_tokens=workspace.answer_limit,
            )
            for name in asked
        }
        found: dict[str, Agreement | None] = {}

        def run(name: str) -> list[Agreement | None]:
            if name not in found:  # with all that are not known: the weights are put in place once
                missing = [n for n, key in keys.items() if workspace.cache.peek(key) is None]
                found.update(self._answers.trial(scales, {*missing, name} - found.keys()))
            return [found[name]]

        for name, key in keys.items():
            kept = workspace.kept(list[Agreement | None], key, partial(run, name))
            self._tried[weights, name] = kept[0]
        return {name: self._tried[weights, name] for name in names}

    def quick_first(self, names: Iterable[str]) -> list[list[str]]:
        """Experts whose answers are compared without being decoded, and then the others."""
        quick: dict[bool, list[str]] = {True: [], False: []}
        for name in names:
            quick[self._workspace.comparer(name) is None].append(name)
        return [group for group in quick.values() if group]

    def remembered(self, what: str, described: Any, compute: Callable[[], Any]) -> Any:
        """Plain data that follow from the states and ``described``, worked out once."""
        own = [(name, self._described(name)) for name in self._states.names]
        key = self._workspace.key(what, of=own, described=described)
        return self._workspace.cache.kept(object, key, compute)

    @cached_property
    def _answers(self) -> _Answers:
        return _Answers(self._workspace, self._states)

    def _identified(self, scales: Mapping[str, float]) -> list[tuple[str, float]]:
        return [(self._workspace.models[name], float(scale)) for name, scale in scales.items()]

    def _described(self, name: str) -> Mapping[str, Any]:
        """All that the reading of expert ``name``'s answers depends on, beside the base."""
        workspace = self._workspace
        own = [block for block in self._states.blocks if block.task == name]
        examples = workspace.pool.examples[name]
        return {
            "model": workspace.models[name],
            "read": workspace.spec.experts[name].how_read,
            "examples": [
                examples[index].model_dump(mode="json", include={"input", "choices"})
                for block in own
                for index in block.inputs
            ],
            "answers": [block.answers for block in own],
        }


def trials_of(workspace: Workspace, states: HiddenStates) -> Trials | None:
    """Trials of the pool; None where answers cannot be read from its states."""
    return Trials(workspace, states) if workspace.facts.answering else None


class _Answers:
    """The same, with the model at hand."""

    def __init__(self, workspace: Workspace, states: HiddenStates) -> None:
        self._workspace = workspace
        self._engine = engine = workspace.engine
        self._model: HeadedModel = engine.require_head()
        self._states = states
        self._options = {n: _first_tokens(engine, states, n) for n in states.names}
        self._known: dict[str, list[Tensor]] = {}

    def reading(self, expert: str) -> str:
        """How ``expert``'s answers are compared: as its task says, or the choices' first token."""
        if self._options[expert] is None or self._model.labels is not None:
            return self._engine.tasks[expert].reading
        return "first_token"

    def forecast(self, expert: str, scales: Mapping[str, float]) -> Agreement | None:
        import torch

        if self._options[expert] == ():
            return None
        own = self._states.own(expert)
        weights = np.array([scales.get(name, 0.0) for name in self._states.names])
        mixed = mix_states(
            [self._states.experts[k] for k in own], [self._states.base[k] for k in own], weights
        )
        merged = [torch.from_numpy(state.astype(np.float32)) for state in mixed]
        head = self._engine.mixed_head(scales)
        return agreement_of(self._own(expert), self._scores(expert, merged, head))

    def trial(self, scales: Mapping[str, float], of: Container[str]) -> dict[str, Agreement | None]:
        tasks, inputs = self._engine.tasks, self._states.inputs
        names = [name for name in scales if name in of]
        asked = [(tasks[name], [inputs[k] for k in self._states.own(name)]) for name in names]
        known = {name: self._own(name) for name in names if self._options[name] != ()}
        texts = [(task, own) for task, own in asked if self._is_text(task)]
        with self._engine.mixed(f"trial:{dict(scales)}", scales):
            # all that is said is asked at once, and read along with it
            self._engine.answer(texts, with_states=True)
            read = self._engine.states(asked, self._model.answer_positions)
            mixed = dict(zip(names, read, strict=True))
            found: dict[str, Agreement | None] = dict.fromkeys(names)
            for name, own in known.items():
                tokens = agreement_of(own, self._scores(name, mixed[name], None))
                found[name] = self._as_compared(name, tokens)
        return found

    def _is_text(self, task: Task) -> bool:
        """Whether it takes what the loaded model says to compare it."""
        return task.reading == "greedy" and self._workspace.comparer(task.name) is not None

    def _as_compared(self, name: str, tokens: Agreement) -> Agreement:
        """With the distances of what the loaded model says, where they take more than ``tokens``;
        an answer that was cut is as far away as it may get."""
        compare = self._workspace.comparer(name)
        if compare is None:
            return tokens
        engine, task = self._engine, self._engine.tasks[name]
        inputs = [self._states.inputs[k] for k in self._states.own(name)]
        engine.note_same(task, compress(inputs, tokens.same))
        own = engine.said(task, inputs, by_expert=True)
        return tokens.apart(compare(own, engine.said(task, inputs)).most)

    def _own(self, name: str) -> list[Tensor]:
        """What expert ``name`` itself answers."""
        import torch

        if name not in self._known:
            row, experts = self._states.names.index(name), self._states.experts
            states = [torch.from_numpy(experts[k][row]) for k in self._states.own(name)]
            self._known[name] = self._scores(name, states, self._engine.mixed_head({name: 1.0}))
        return self._known[name]

    def _scores(self, expert: str, states: Sequence[Tensor], head: Head | None) -> list[Tensor]:
        options, logits_each = self._options[expert], self._model.logits_each
        if options is None:
            return [*logits_each(states, head)]
        first = logits_each((state[:1] for state in states), head)
        return [own[:, list(tokens)] for own, tokens in zip(first, options, strict=False)]


def _first_tokens(
    engine: Engine, states: HiddenStates, expert: str
) -> tuple[tuple[int, ...], ...] | None:
    """Per own probe the first token of each choice; empty where two choices share one."""
    choices, inputs = engine.tasks[expert].choices, states.inputs
    if choices is None:
        return None
    firsts = [tuple(choice[0] for choice in choices[inputs[k]]) for k in states.own(expert)]
    return tuple(firsts) if all(len(set(own)) == len(own) for own in firsts) else ()
