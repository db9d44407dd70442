"""One base in memory, experts swapped in, nothing decoded twice."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.families import load_model
from pytest_mergegate.engine.models.headed import Head, HeadedModel
from pytest_mergegate.engine.models.placement import pick_device, place, use_own_cores
from pytest_mergegate.engine.models.readings import BASE, Row, Tokens, loaded_as
from pytest_mergegate.engine.running.askers import Asker, end_as_experts_do, own_askers
from pytest_mergegate.engine.running.distances import Answer
from pytest_mergegate.engine.running.tasks import Task, build_task
from pytest_mergegate.engine.running.workspace import Facts
from pytest_mergegate.engine.weights.mixing import MixedWeights
from pytest_mergegate.engine.weights.orientation import check_orientation
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.sections import EXACT, EXACT_MATCH, Positions
from pytest_mergegate.pool.pool import Pool

_Input = tuple[str, str, int]
"""What is loaded, a task, and one of its inputs."""


class Engine:
    """What the stages compute with: the model, the task vectors, the tasks, and what was read.

    Raises GateError on construction where there is no such device, PoolError where the base does
    not load.
    """

    def __init__(
        self,
        pool: Pool,
        device: str,
        vectors: TaskVectors | None = None,
        *,
        computes: str | None = None,
        answers: dict[tuple[str, str, int], list[int]] | None = None,
    ) -> None:
        """What it ``computes`` in is the gate's precision where nothing else was chosen."""
        use_own_cores()
        self.pool = pool
        self.vectors = vectors or TaskVectors(pool)
        self.model = load_model(pool.base, place(pool, pick_device(device), computes))
        self.vectors.rename(self.model.parameters)
        self.model.check_parameters(self.vectors.parameters())
        for expert in pool.experts:
            check_orientation(expert, self.model.module)
        self.positions = self.model.resolve_positions(pool.spec.probes.positions)
        self.answer_limit = pool.spec.probes.answer_limit
        """How many tokens of an answer are decoded at most."""
        self._answers = {} if answers is None else answers
        self._choice_scores: dict[tuple[str, str, int], Tensor] = {}
        self._states: dict[tuple[str, int, Positions], Tensor] = {}
        """Of the weights that were in place after ``_seen`` changes of them."""
        self._seen = 0
        self._left: dict[_Input, list[int]] = {}
        """Answers that were not read to their end, since they can no longer be right."""
        self.begun: dict[_Input, list[int]] = {}
        """Answers that were cut, and are to go on."""
        self.kept: dict[str, Any] = {}
        """What one stage made at great cost and another will ask for again."""
        end_as_experts_do(self.model, self.askers)

    @property
    def facts(self) -> Facts:
        """What a workspace remembers of the base."""
        return Facts(
            positions=self.positions,
            forced=self.positions in self.model.forced_positions,
            answering=self.positions == self.model.answer_positions,
            has_head=isinstance(self.model, HeadedModel),
        )

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """Each expert's own inputs. Raises PoolError where one cannot be tokenised."""
        return {
            name: build_task(name, self.pool, self.model, self.askers.get(name))
            for name in self.pool.names
        }

    @cached_property
    def askers(self) -> dict[str, Asker]:
        """What makes prompts of the inputs of those experts that are asked in a way of their own.
        Raises PoolError."""
        return own_askers(self.pool, self.model.tokenizer)

    def expert(self, name: str) -> AbstractContextManager[None]:
        """Have expert ``name`` loaded, as θ_0 + τ."""
        label = loaded_as(name)
        return nullcontext() if self.model.loaded == label else self.mixed(label, {name: 1.0})

    @contextmanager
    def mixed(self, label: str, scales: Mapping[str, float]) -> Iterator[None]:
        """Have θ_0 + Σ λ_j τ_j loaded, as ``label``, whatever is in place now."""
        weights = self.mixed_weights(scales)
        # what is in place and is changed by no expert here has to make way for the base's own
        names = sorted({*weights, *self.model.swapped_names})
        with self.model.swapped(label, MixedWeights(names, self.model, self.vectors, scales)):
            yield

    def mixed_weights(self, scales: Mapping[str, float]) -> MixedWeights:
        """θ_0 + Σ λ_j τ_j: the parameters that any expert in ``scales`` (its λ_j) changes.

        Each is put together when it is asked for, and not kept.
        """
        return MixedWeights(self.vectors.parameters(*scales), self.model, self.vectors, scales)

    def mixed_head(self, scales: Mapping[str, float]) -> Head | None:
        """The head of θ_0 + Σ λ_j τ_j; None where the loaded one is the same."""
        names = self.require_head().head_parameters
        touched = set(self.vectors.parameters(*scales)).intersection(names.values())
        if not touched and not self.model.swapped_names.intersection(names.values()):
            return None
        mixed = MixedWeights([*names.values()], self.model, self.vectors, scales)
        return {part: mixed[name] for part, name in names.items()}

    def require_head(self) -> HeadedModel:
        """The model, which must have a head to answer through. Raises PoolError."""
        if not isinstance(self.model, HeadedModel):
            raise PoolError(
                f"{self.model.called} is a {self.model.kind} and gives no answers, which "
                "max_disagreement and max_loss compare",
                code="MG203",
                fix="gate it on max_mds or the conflict ratios, or give a base with a head",
            )
        return self.model

    def row(self, task: Task, index: int, positions: Positions) -> Row:
        """What to run to read input ``index`` at ``positions``, its own answer forced if need be.

        That answer must have been decoded before.
        """
        if positions not in self.model.forced_positions:
            return task.prompts[index], ()
        answer = self._answers[loaded_as(task.name), task.name, index]
        return task.prompts[index], tuple(answer[:-1])

    def states(
        self, asked: Sequence[tuple[Task, Sequence[int]]], positions: Positions
    ) -> list[list[Tensor]]:
        """States [T, d] of the loaded model on inputs of several tasks, each with its own answer
        forced if need be; read together, and once as long as the same weights are in place."""
        self._forget_states()
        rows = {
            (task.name, index, positions): self.row(task, index, positions)
            for task, indices in asked
            for index in indices
            if (task.name, index, positions) not in self._states
        }
        found = self.model.states([*rows.values()], positions)
        self._states.update(zip(rows, found, strict=True))
        return [[self._states[task.name, k, positions] for k in indices] for task, indices in asked]

    def states_at_hand(self, task: str, indices: Sequence[int]) -> list[Tensor] | None:
        """States of the loaded model along answers that it has just read; None where it has not."""
        self._forget_states()
        keys = [(task, index, self.require_head().answer_positions) for index in indices]
        return [self._states[key] for key in keys] if set(keys) <= self._states.keys() else None

    def _forget_states(self) -> None:
        """Forget states of weights that are no longer in place."""
        if self._seen != self.model.changes:
            self._states.clear()
            self._seen = self.model.changes

    def answers(self, task: Task, indices: Sequence[int]) -> list[list[int]]:
        """Greedy answers, in tokens, of the loaded model; each decoded once."""
        self.answer([(task, indices)])
        return [self._answers[self.model.loaded, task.name, index] for index in indices]

    def answer(
        self,
        asked: Sequence[tuple[Task, Sequence[int]]],
        *,
        with_states: bool = False,
        to_score: bool = False,
    ) -> None:
        """Have the loaded model answer inputs of several tasks, as many together as can be: a token
        takes a pass over all weights, however many rows there are.

        What the task's expert says is the draft of what others say; of the base only where states
        along it are wanted as well, since it mostly says something else from the beginning. Where
        answers are needed only ``to_score`` them and to compare them with the expert's, one that
        can be neither a target nor what the expert says ends there.
        """
        missing: dict[tuple[str, ...], dict[_Input, Tokens]] = {}
        for task, indices in asked:
            for index in indices:
                key = (self.model.loaded, task.name, index)
                if key not in self._answers and not (to_score and key in self._left):
                    missing.setdefault(tuple(task.stop), {})[key] = task.prompts[index]
        for stop, prompts in missing.items():
            if self.require_head().can_verify:
                drafts = with_states or self.model.loaded != BASE
                self._decode(prompts, stop, drafts=drafts, to_score=to_score)
            else:
                answers = self.require_head().decode([*prompts.values()], self.answer_limit, stop)
                self._answers.update(zip(prompts, answers, strict=True))

    def _decode(
        self, prompts: Mapping[_Input, Tokens], stop: Sequence[str], *, drafts: bool, to_score: bool
    ) -> None:
        """Answers, and the states along those of the tasks' experts."""
        model = self.require_head()
        self._forget_states()
        own = [(loaded_as(name), name, index) for _, name, index in prompts]
        begun = {**self._left, **self.begun}
        told = [
            tuple(begun.get(key) or (drafts and self._answers.get(expert)) or ())
            for key, expert in zip(prompts, own, strict=True)
        ]
        wanted = [self._right(*key[1:]) if to_score else None for key in prompts]
        found = model.answer([*prompts.values()], told, self.answer_limit, stop, wanted)
        for key, expert, draft, one in zip(prompts, own, told, found, strict=True):
            (self._answers if one.whole else self._left)[key] = one.answer
            along = one.answer if key == expert else [*draft]
            if along == self._answers.get(expert) and len(along) == len(one.states):
                self._states[key[1], key[2], model.answer_positions] = one.states

    def _right(self, name: str, index: int) -> tuple[str, ...] | None:
        """The texts of which an answer has to be one to score anything, or to be what the task's
        expert says; None where others may, or where answers are compared with one another."""
        spec, task = self.pool.spec.experts[name], self.tasks[name]
        if spec.metric != EXACT_MATCH or spec.comparison != EXACT:
            return None
        own = self._answers.get((loaded_as(name), name, index))
        said = () if own is None else (self.require_head().text(own, task.stop),)
        return (*task.examples[index].references, *said)

    def is_whole(self, task: Task, index: int) -> bool:
        """Whether the loaded model's answer was read to its end."""
        key = (self.model.loaded, task.name, index)
        return key in self._answers or key not in self._left

    def note_same(self, task: Task, indices: Iterable[int]) -> None:
        """Record that the loaded model answers these as the task's expert does, so that none of
        them is decoded again."""
        for index in indices:
            answer = self._answers[loaded_as(task.name), task.name, index]
            self._answers.setdefault((self.model.loaded, task.name, index), answer)

    def choice_scores(self, task: Task, indices: Sequence[int]) -> list[Tensor]:
        """Log-likelihood of every choice under the loaded model, divided by its length where the
        gate asks for that; one [choices] each."""
        assert task.choices is not None
        keys = [(self.model.loaded, task.name, index) for index in indices]
        missing = [key for key in dict.fromkeys(keys) if key not in self._choice_scores]
        counts = [len(task.choices[key[2]]) for key in missing]
        pairs = [(task.prompts[key[2]], own) for key in missing for own in task.choices[key[2]]]
        scores = torch.split(self.require_head().log_likelihoods(pairs), counts)
        for key, own in zip(missing, scores, strict=True):
            self._choice_scores[key] = own / torch.tensor(task.choice_lengths[key[2]])
        return [self._choice_scores[key] for key in keys]

    def said(
        self,
        task: Task,
        indices: Sequence[int],
        *,
        by_expert: bool = False,
        to_score: bool = False,
    ) -> list[Answer]:
        """Greedy answers of the loaded model as text, or of the task's expert, which must have been
        decoded before; ``to_score``, see ``answer``: what was left there is another text for sure,
        and does not count as cut."""
        model, asked = self.require_head(), loaded_as(task.name) if by_expert else self.model.loaded
        if not by_expert:
            self.answer([(task, indices)], to_score=to_score)
        keys = [(asked, task.name, index) for index in indices]
        told = [(key in self._answers, self._read(key)) for key in keys]
        return [
            Answer(text=model.text(a, task.stop), cut=whole and not model.is_complete(a, task.stop))
            for whole, a in told
        ]

    def _read(self, key: _Input) -> list[int]:
        """An answer, as far as it was read."""
        return self._answers[key] if key in self._answers else self._left[key]

    def outputs(self, task: Task, indices: Sequence[int], *, to_score: bool = False) -> list[str]:
        """What the loaded model answers, as the task's metric reads it; ``to_score``, see
        ``answer``."""
        if task.reading != "choices":
            return [answer.text for answer in self.said(task, indices, to_score=to_score)]
        scores = self.choice_scores(task, indices)
        return [
            (task.examples[index].choices or ())[int(s.argmax())]
            for index, s in zip(indices, scores, strict=True)
        ]
