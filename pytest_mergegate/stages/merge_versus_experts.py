"""A model against every expert, each on that expert's own unlabelled inputs (THEORY 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.evaluation.degenerate import Degeneracy, degeneracy
from pytest_mergegate.stages.references import answers_at, own_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pytest_mergegate.engine.running.agreement import Agreement
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.engine.running.workspace import Workspace
    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.stages.references import Reference, References


_DECODED = 8
"""Answers of a merge that are looked at: decoding takes longer than comparing."""


@dataclass(frozen=True, kw_only=True)
class MergedExpert:
    """What a merge does to one expert's own inputs."""

    name: str
    reading: str
    inputs: int
    """How many inputs were compared."""
    cut: int
    """How many answers were cut before any difference showed; the rest of them is unknown."""
    disagreement: Value
    """Share of inputs answered differently from the expert, with its two-sided interval, whose
    upper end counts the cut answers as different."""
    disagreement_upper: float
    """One-sided Clopper-Pearson bound, counting the cut answers as different."""
    kl: float
    """Mean KL(expert ‖ merged) in nats."""
    distortion: float
    """δ_i²: mean over own inputs of ‖h_merged − h_i‖²."""
    relative_distortion: Value
    """ρ_i = δ_i / rms‖h_i‖."""
    degenerate: Degeneracy | None


@dataclass(frozen=True, kw_only=True)
class BaseAnswers:
    """How the base, with nothing merged, answers one expert's own inputs."""

    inputs: int
    differing: int
    """Answered otherwise than by the expert; those that were cut before any difference are not."""

    @property
    def disagreement(self) -> float:
        """Share of inputs answered differently."""
        return self.differing / self.inputs


def compare_base(workspace: Workspace, references: References, name: str) -> BaseAnswers:
    """The base against expert ``name``; nothing must be loaded over it."""
    inputs = workspace.draws[name].order[: workspace.spec.certificate.per_task]
    differs = answers_differ(workspace.engine, name, references.of(name, inputs))
    return BaseAnswers(inputs=len(differs), differing=sum(differs))


def compare_loaded(
    workspace: Workspace, references: References, spec: GateSpec
) -> tuple[MergedExpert, ...]:
    """The loaded model against every expert.

    Where ``certificate.max_per_task`` allows, an expert whose verdict is open is compared on
    twice as many inputs, and again.
    """
    tasks = [workspace.engine.tasks[name] for name in workspace.pool.names]
    _read_together(workspace.engine, references, tasks, spec.certificate.per_task)
    compared = [_compare(workspace, references, task, spec) for task in tasks]
    looked_at = [_looked_at(*pair) for pair in zip(tasks, compared, strict=True)]
    asked = [pair for pair in zip(tasks, looked_at, strict=True) if pair[0].reading == "greedy"]
    workspace.engine.answer(asked)
    return tuple(
        _merged_expert(workspace.engine, task, found, inputs, spec)
        for task, found, inputs in zip(tasks, compared, looked_at, strict=True)
    )


def _read_together(
    engine: Engine, references: References, tasks: Sequence[Task], count: int
) -> None:
    """Read all that is compared in any case at once: the more rows, the sooner each is read."""
    for task in tasks:
        references.of(task.name, task.order[:count])  # says which answers are forced
    engine.states([(task, task.order[:count]) for task in tasks], answers_at(engine))


def answers_differ(engine: Engine, name: str, reference: Reference) -> tuple[bool, ...]:
    """Per input of ``reference``, whether the loaded model answers otherwise than the expert."""
    return _compare_inputs(engine, engine.tasks[name], reference).differs


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Some inputs of one expert, one entry each."""

    inputs: tuple[int, ...]
    differs: tuple[bool, ...]
    cut: tuple[bool, ...]
    kl: tuple[float, ...]
    moved: tuple[float, ...]
    """‖h_merged − h_i‖²."""
    own: tuple[float, ...]
    """‖h_i‖²."""
    outputs: tuple[str, ...]
    """The expert's own."""

    def __add__(self, more: _Compared) -> _Compared:
        return _Compared(**{k: (*v, *getattr(more, k)) for k, v in vars(self).items()})

    @property
    def differing(self) -> int:
        return sum(self.differs)

    @property
    def unknown(self) -> int:
        """Answers that were cut before any difference showed."""
        return sum(was and not differs for was, differs in zip(self.cut, self.differs, strict=True))

    def disagreement(self, confidence: float) -> Value:
        n, differing = len(self.differs), self.differing
        low, _ = metrics.disagreement_interval(differing, n, confidence=confidence)
        _, high = metrics.disagreement_interval(differing + self.unknown, n, confidence=confidence)
        return Value(number=differing / n, interval=(low, high))

    def upper(self, confidence: float) -> float:
        differing = self.differing + self.unknown
        return metrics.disagreement_bound(differing, len(self.differs), confidence=confidence)


def _compare(workspace: Workspace, references: References, task: Task, spec: GateSpec) -> _Compared:
    engine, certificate = workspace.engine, spec.certificate
    count = certificate.per_task
    reference = references.of(task.name, task.order[:count])
    compared = _compare_inputs(engine, task, reference)
    while count < certificate.most and _is_open(compared, task.name, workspace, spec):
        more = task.order[count : min(2 * count, certificate.most)]
        if not more:
            break
        compared += _compare_inputs(engine, task, references.of(task.name, more))
        count = min(2 * count, certificate.most)
    return compared


def _merged_expert(
    engine: Engine, task: Task, compared: _Compared, looked_at: Sequence[int], spec: GateSpec
) -> MergedExpert:
    level = spec.level
    distortion = float(np.mean(compared.moved))
    return MergedExpert(
        name=task.name,
        reading=task.reading,
        inputs=len(compared.differs),
        cut=compared.unknown,
        disagreement=compared.disagreement(level),
        disagreement_upper=compared.upper(level),
        kl=float(np.mean(compared.kl)),
        distortion=distortion,
        relative_distortion=Value.computed(
            lambda: metrics.relative_size(distortion, float(np.mean(compared.own)))
        ),
        degenerate=_degenerate(engine, task, compared, looked_at),
    )


def _is_open(compared: _Compared, name: str, workspace: Workspace, spec: GateSpec) -> bool:
    """Whether more inputs might change on which side of a limit the expert is."""
    from pytest_mergegate.verdict.decisions import Decisions

    disagreement, upper = compared.disagreement(spec.level), compared.upper(spec.level)
    return Decisions(spec, workspace.pool).disagreement_is_open(name, disagreement, upper)


def _compare_inputs(engine: Engine, task: Task, reference: Reference) -> _Compared:
    states = own_states(engine, task, reference.inputs)
    agreement = _agreement(engine, task, reference, states)
    pairs = list(zip(states, reference.states, strict=True))
    return _Compared(
        inputs=reference.inputs,
        differs=agreement.differs,
        cut=reference.cut,
        kl=agreement.divergences,
        moved=tuple(metrics.mean_square_norm([_difference(m, own)]) for m, own in pairs),
        own=tuple(metrics.mean_square_norm([own.numpy()]) for _, own in pairs),
        outputs=reference.outputs,
    )


def _agreement(
    engine: Engine, task: Task, reference: Reference, states: Sequence[Tensor]
) -> Agreement:
    from pytest_mergegate.engine.running.comparison import compare

    if reference.choice_scores is not None:
        own = [scores[None] for scores in reference.choice_scores]
        merged = [scores[None] for scores in engine.choice_scores(task, reference.inputs)]
        return compare(own, merged)
    logits, head = engine.require_head().logits, engine.mixed_head({task.name: 1.0})
    own_logits = (logits(state, head) for state in reference.states)
    agreement = compare(own_logits, map(logits, states))
    for index, own_answer, differs in zip(
        reference.inputs, reference.answers, agreement.differs, strict=True
    ):
        if not differs:
            engine.note_answer(task, index, own_answer)
    return agreement


def _looked_at(task: Task, compared: _Compared) -> tuple[int, ...]:
    """Inputs whose answers show whether the loaded model still answers: some where they have to be
    decoded, none where most are the expert's own."""
    if task.reading != "greedy":
        return compared.inputs
    return compared.inputs[:_DECODED] if 2 * compared.differing > len(compared.inputs) else ()


def _degenerate(
    engine: Engine, task: Task, compared: _Compared, inputs: Sequence[int]
) -> Degeneracy | None:
    if not inputs:
        return None
    return degeneracy(
        engine.outputs(task, inputs),
        compared.outputs[: len(inputs)],
        [task.examples[index].choices for index in inputs],
    )


def _difference(merged: Tensor, own: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return merged.numpy().astype(np.float64) - own.numpy().astype(np.float64)
