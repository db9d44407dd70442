"""One base in memory, experts swapped in, nothing decoded twice."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from pytest_mergegate.engine.model import LanguageModel, loaded_as, pick_device
from pytest_mergegate.engine.task_vectors import TaskVectors
from pytest_mergegate.engine.tasks import Task, build_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.spec import GateSpec


class Engine:
    """What the stages compute with: the model, the task vectors, the tasks, and what was read.

    Raises GateError on construction where there is no such device, PoolError where the base does
    not load.
    """

    def __init__(self, pool: Pool, spec: GateSpec, device: str) -> None:
        self.pool = pool
        self.vectors = TaskVectors(pool.experts)
        self.model = LanguageModel(pool.base, pick_device(device))
        self.model.check_parameters(self.vectors.parameters())
        self._spec = spec
        self._max_tokens = spec.probes.max_answer_tokens
        self._answers: dict[tuple[str, str, int], list[int]] = {}
        self._choice_scores: dict[tuple[str, str, int], Tensor] = {}

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """Each expert's own inputs. Raises PoolError where one cannot be tokenised."""
        return build_tasks(self.pool, self._spec, self.model)

    @contextlib.contextmanager
    def expert(self, name: str) -> Iterator[None]:
        """Have expert ``name`` loaded, as W0 + s·B·A."""
        with self.model.swapped(loaded_as(name), self.expert_weights(name)):
            yield

    def expert_weights(self, name: str) -> dict[str, Tensor]:
        """The parameters that expert ``name`` changes, with its task vector added."""
        weights = {}
        for parameter in self.vectors.parameters(name):
            delta = self.vectors.delta(name, parameter)
            if delta is not None:
                weights[parameter] = self.model.base_weight(parameter) + delta
        return weights

    def head_weight(self, name: str) -> Tensor | None:
        """Expert ``name``'s vocabulary projection; None where the loaded one is the same."""
        parameter = self.model.head_parameter
        delta = self.vectors.delta(name, parameter)
        if delta is not None:
            return self.model.base_weight(parameter) + delta
        return self.model.base_weight(parameter) if self.model.is_swapped(parameter) else None

    def answers(self, task: Task, indices: Sequence[int]) -> list[list[int]]:
        """Greedy answers, in tokens, of the loaded model; each decoded once."""
        keys = [(self.model.loaded, task.name, index) for index in indices]
        missing = [key for key in dict.fromkeys(keys) if key not in self._answers]
        prompts = [task.prompts[index] for _, _, index in missing]
        found = self.model.decode(prompts, self._max_tokens) if prompts else []
        self._answers.update(zip(missing, found, strict=True))
        return [self._answers[key] for key in keys]

    def answers_of(self, name: str, indices: Sequence[int]) -> list[list[int]]:
        """Expert ``name``'s answers to its own inputs, which must have been decoded before."""
        return [self._answers[loaded_as(name), name, index] for index in indices]

    def note_answer(self, task: Task, index: int, answer: list[int]) -> None:
        """Record that the loaded model gives ``answer``, known without decoding it again."""
        self._answers.setdefault((self.model.loaded, task.name, index), answer)

    def choice_scores(self, task: Task, indices: Sequence[int]) -> list[Tensor]:
        """Log-likelihood of every choice under the loaded model; one [choices] each."""
        assert task.choices is not None
        keys = [(self.model.loaded, task.name, index) for index in indices]
        missing = [key for key in dict.fromkeys(keys) if key not in self._choice_scores]
        rows = [(key, c) for key in missing for c in task.choices[key[2]]]
        prompts = [task.prompts[key[2]] for key, _ in rows]
        spans = [(len(p) - 1, len(p) - 1 + len(c)) for p, (_, c) in zip(prompts, rows, strict=True)]
        sequences = [(*p, *c[:-1]) for p, (_, c) in zip(prompts, rows, strict=True)]
        found: dict[tuple[str, str, int], list[float]] = {key: [] for key in missing}
        for (key, choice), state in zip(rows, self.model.states(sequences, spans), strict=True):
            logs = torch.log_softmax(self.model.logits(state).to(torch.float64), dim=-1)
            found[key].append(float(logs[torch.arange(len(choice)), torch.tensor(choice)].sum()))
        for key, scores in found.items():
            self._choice_scores[key] = torch.tensor(scores, dtype=torch.float64)
        return [self._choice_scores[key] for key in keys]

    def outputs(self, task: Task, indices: Sequence[int]) -> list[str]:
        """What the loaded model answers, as the task's metric reads it."""
        if task.reading == "greedy":
            return [self.model.text(answer) for answer in self.answers(task, indices)]
        scores = self.choice_scores(task, indices)
        return [
            (task.examples[index].choices or ())[int(s.argmax())]
            for index, s in zip(indices, scores, strict=True)
        ]


def teacher_forced(
    task: Task, index: int, answer: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The tokens to run, and the span of positions that predict ``answer``'s tokens."""
    prompt = task.prompts[index]
    return (*prompt, *answer[:-1]), (len(prompt) - 1, len(prompt) - 1 + len(answer))
