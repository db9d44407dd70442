"""A model against every expert, each on that expert's own unlabelled inputs (THEORY 6)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.references import Agreement, agreement_of, own_states
from pytest_mergegate.evaluation.degenerate import Degeneracy, degeneracy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.references import OwnAnswers
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.stages.context import Context, Results


_DECODED = 8
"""Answers of a merge that are looked at: decoding takes longer than comparing."""


@result
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


@result
class ComparedMerge:
    """What some weights do to every expert."""

    experts: tuple[MergedExpert, ...]

    def expert(self, name: str) -> MergedExpert:
        """The comparison with one expert."""
        return next(expert for expert in self.experts if expert.name == name)


@result
class BaseAnswers:
    """How the base, with nothing merged, answers one expert's own inputs."""

    inputs: int
    differing: int
    """Answered otherwise than by the expert; those that were cut before any difference are not."""

    @property
    def disagreement(self) -> float:
        """Share of inputs answered differently."""
        return self.differing / self.inputs


def with_base(context: Context, results: Results) -> Results:
    """With what the base by itself does on every expert's inputs, where a budget is about merges:
    whether a merge that passes did anything (THEORY 9)."""
    if not context.decisions.compares_merges:
        return results
    context.tell("the base's own answers", 0.0)
    return replace(results, base=base_answers(context))


def base_answers(context: Context) -> dict[str, BaseAnswers]:
    """By expert; nothing must be loaded over the base."""
    workspace, spec = context.workspace, context.gate.spec

    def compare(name: str, inputs: tuple[int, ...]) -> BaseAnswers:
        context.read_references()
        reference = context.references.of(name, inputs)
        differs = answers_differ(workspace.engine, name, reference)
        return BaseAnswers(inputs=len(differs), differing=sum(differs))

    found = {}
    for name in context.pool.names:
        inputs = workspace.draws[name].order[: spec.certificate.per_task]
        key = workspace.key(
            "base's answers",
            expert=workspace.models[name],
            examples=context.pool.examples_fingerprint.get(name),
            read=spec.experts[name].how_read,
            inputs=inputs,
            probes=spec.probes.model_dump(mode="json"),
        )
        found[name] = context.cache.kept(BaseAnswers, key, partial(compare, name, inputs))
    return found


def compare_loaded(context: Context) -> tuple[MergedExpert, ...]:
    """The loaded model against every expert.

    Where ``certificate.max_per_task`` allows, an expert whose verdict is open is compared on
    twice as many inputs, and again.
    """
    engine, count = context.workspace.engine, context.gate.spec.certificate.per_task
    tasks = [engine.tasks[name] for name in context.pool.names]
    for task in tasks:
        context.references.of(task.name, task.order[:count])  # says which answers are forced
    # all that is compared in any case at once: the more rows, the sooner each is read
    positions = engine.require_head().answer_positions
    engine.states([(task, task.order[:count]) for task in tasks], positions)
    compared = []
    for task in tasks:
        found = _compare(context, task)
        compared.append((task, found, _looked_at(task, found)))
    engine.answer([(task, inputs) for task, _, inputs in compared if task.reading == "greedy"])
    level = context.gate.spec.level
    return tuple(_merged_expert(engine, *each, level) for each in compared)


def answers_differ(engine: Engine, name: str, reference: OwnAnswers) -> tuple[bool, ...]:
    """Per input of ``reference``, whether the loaded model answers otherwise than the expert."""
    return _compare_inputs(engine, engine.tasks[name], reference).differs


@dataclass(frozen=True, kw_only=True)
class DifferingAnswers:
    """Some inputs of one expert, one entry each: where a model answers otherwise."""

    differs: tuple[bool, ...]
    cut: tuple[bool, ...]
    """Where the expert's answer was cut, so that agreement is not known to last."""

    @property
    def differing(self) -> int:
        """How many are answered otherwise."""
        return sum(self.differs)

    @property
    def unknown(self) -> int:
        """Answers that were cut before any difference showed."""
        return sum(was and not differs for was, differs in zip(self.cut, self.differs, strict=True))

    def disagreement(self, confidence: float) -> Value:
        """The share that differs; the upper end counts the cut answers as different."""
        n, differing = len(self.differs), self.differing
        low, _ = metrics.disagreement_interval(differing, n, confidence=confidence)
        _, high = metrics.disagreement_interval(differing + self.unknown, n, confidence=confidence)
        return Value(number=differing / n, interval=(low, high))

    def upper(self, confidence: float) -> float:
        """The one-sided bound on it, counting the cut answers as different."""
        differing = self.differing + self.unknown
        return metrics.disagreement_bound(differing, len(self.differs), confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class _Compared(DifferingAnswers):
    """The same, with how far the answers are apart."""

    inputs: tuple[int, ...]
    kl: tuple[float, ...]
    moved: tuple[float, ...]
    """‖h_merged − h_i‖²."""
    own: tuple[float, ...]
    """‖h_i‖²."""
    outputs: tuple[str, ...]
    """The expert's own."""

    def __add__(self, more: Self) -> Self:
        return type(self)(**{k: (*v, *getattr(more, k)) for k, v in vars(self).items()})


def _compare(context: Context, task: Task) -> _Compared:
    engine, spec = context.workspace.engine, context.gate.spec
    count, most = spec.certificate.per_task, spec.certificate.most
    compared = _compare_inputs(engine, task, context.references.of(task.name, task.order[:count]))
    while count < most and context.decisions.disagreement_is_open(
        task.name, compared.disagreement(spec.level), compared.upper(spec.level)
    ):
        more = task.order[count : min(2 * count, most)]
        if not more:
            break
        compared += _compare_inputs(engine, task, context.references.of(task.name, more))
        count = min(2 * count, most)
    return compared


def _merged_expert(
    engine: Engine, task: Task, compared: _Compared, looked_at: Sequence[int], level: float
) -> MergedExpert:
    distortion = float(np.mean(compared.moved))
    degenerate = None
    if looked_at:
        degenerate = degeneracy(
            engine.outputs(task, looked_at),
            compared.outputs[: len(looked_at)],
            [task.examples[index].choices for index in looked_at],
        )
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
        degenerate=degenerate,
    )


def _compare_inputs(engine: Engine, task: Task, reference: OwnAnswers) -> _Compared:
    states = own_states(engine, task, reference.inputs)
    agreement = _agreement(engine, task, reference, states)
    pairs = list(zip(states, reference.states, strict=True))
    return _Compared(
        inputs=reference.inputs,
        differs=agreement.differs,
        cut=reference.cut,
        kl=agreement.divergences,
        moved=tuple(
            metrics.mean_square_norm([merged.numpy().astype(np.float64) - own.numpy()])
            for merged, own in pairs
        ),
        own=tuple(metrics.mean_square_norm([own.numpy()]) for _, own in pairs),
        outputs=reference.outputs,
    )


def _agreement(
    engine: Engine, task: Task, reference: OwnAnswers, states: Sequence[Tensor]
) -> Agreement:
    if reference.choice_scores is not None:
        own = [scores[None] for scores in reference.choice_scores]
        merged = [scores[None] for scores in engine.choice_scores(task, reference.inputs)]
        return agreement_of(own, merged)
    logits, head = engine.require_head().logits, engine.mixed_head({task.name: 1.0})
    own_logits = (logits(state, head) for state in reference.states)
    agreement = agreement_of(own_logits, map(logits, states))
    for index, own_answer, same in zip(
        reference.inputs, reference.answers, agreement.same, strict=True
    ):
        if same:
            engine.note_answer(task, index, own_answer)
    return agreement


def _looked_at(task: Task, compared: _Compared) -> tuple[int, ...]:
    """Inputs whose answers show whether the loaded model still answers: some where they have to be
    decoded, none where most are the expert's own."""
    if task.reading != "greedy":
        return compared.inputs
    return compared.inputs[:_DECODED] if 2 * compared.differing > len(compared.inputs) else ()
