"""A model against every expert, each on that expert's own unlabelled inputs (THEORY 6)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Self

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.distances import Distances
from pytest_mergegate.engine.running.references import (
    Agreement,
    agreement_of,
    own_states,
    same_text,
)
from pytest_mergegate.evaluation.comparing import same_or_not
from pytest_mergegate.evaluation.degenerate import Degeneracy, degeneracy
from pytest_mergegate.gate.sections import BUILTIN_METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.references import OwnAnswers
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.stages.context import Context


DECODED = 8
"""Answers of a merge that are looked at: decoding takes longer than comparing."""


@result
class ChangedAnswer:
    """An input that a merge answers differently, in the words of both."""

    index: int
    """Among the expert's examples."""
    expert: str
    merged: str | None
    """None where it was not decoded."""
    distance: float
    kl: float | None
    """KL(expert ‖ merged) in nats, mean over the positions of the expert's answer; None where only
    texts were compared."""


@result
class MergedExpert:
    """What a merge does to one expert's own inputs."""

    name: str
    reading: str
    inputs: int
    """How many inputs were compared."""
    planned: int
    """How many would have been, if it had not been over a limit beyond doubt before."""
    compared_by: str
    """How answers are compared (``ExpertSpec.comparison``)."""
    cut: int
    """How many answers were cut, so that their distance is not known: where they are compared
    exactly, those that were cut before any difference showed."""
    unended: int
    """How many of the expert's own answers did not end within the limit on their length."""
    disagreement: Value
    """Mean distance from the expert's answers (where they are compared exactly, the share that
    differs), with its two-sided interval, whose upper end counts the cut answers as different."""
    least: float
    """The same if those that were cut went on for the best."""
    most: float
    """The same if they went on for the worst."""
    disagreement_upper: float
    """One-sided bound on it, counting the cut answers as different."""
    token_agreement: float | None
    """Share of the positions of the expert's answer where the merge's first choice is the expert's,
    mean over inputs; None for a model whose answers are no text, and where only texts were
    compared."""
    total_variation: float | None
    """Total variation between the two distributions there, in [0, 1], mean over inputs."""
    kl: float | None
    """Mean KL(expert ‖ merged) in nats; None where only texts were compared."""
    distortion: float | None
    """δ_i²: mean over own inputs of ‖h_merged − h_i‖²; None where only texts were compared."""
    relative_distortion: Value
    """ρ_i = δ_i / rms‖h_i‖."""
    degenerate: Degeneracy | None
    as_base: tuple[int, int] | None = None
    """Of a finished merge: beside how many of its changed answers the base's were laid, and how
    many were the same; None where none changed."""
    changed: tuple[ChangedAnswer, ...]
    """The inputs that are answered differently, the worst first: by distance, then by
    divergence."""

    @property
    def failed_early(self) -> bool:
        """Whether it was over a limit beyond doubt before all planned inputs were compared."""
        return self.inputs < self.planned


@result
class ComparedMerge:
    """What some weights do to every expert."""

    experts: tuple[MergedExpert, ...]

    def expert(self, name: str) -> MergedExpert:
        """The comparison with one expert."""
        return next(expert for expert in self.experts if expert.name == name)


def distances_from(context: Context, name: str, reference: OwnAnswers) -> Distances:
    """How far the loaded model's answers to the inputs of ``reference`` are from the expert's."""
    engine, compare = context.workspace.engine, context.workspace.comparer(name)
    task = engine.tasks[name]
    if not is_decoded(context, task):
        return compare_inputs(context, task, reference).distances
    said = engine.said(task, reference.inputs, to_score=True)
    return (compare or same_or_not)(reference.said, said)


@dataclass(frozen=True, kw_only=True)
class ComparedInputs:
    """Some inputs of one expert under the loaded model, one entry each."""

    inputs: tuple[int, ...]
    distances: Distances
    agreement: Agreement
    moved: tuple[float, ...]
    """‖h_merged − h_i‖²."""
    own: tuple[float, ...]
    """‖h_i‖²."""
    outputs: tuple[str, ...]
    """The expert's own."""
    unended: tuple[bool, ...]
    """Whether that was cut."""

    def __add__(self, more: Self) -> Self:
        return type(self)(**{k: v + getattr(more, k) for k, v in vars(self).items()})

    @property
    def differing(self) -> tuple[int, ...]:
        """Places of the inputs that are answered differently, the worst first."""
        seen, kl = self.distances.seen, self.agreement.divergences
        changed = [k for k, distance in enumerate(seen) if distance > 0]
        return tuple(sorted(changed, key=lambda k: (-seen[k], -kl[k], k)))


def merged_expert(
    engine: Engine, task: Task, compared: ComparedInputs, shown: Sequence[int], spec: GateSpec
) -> MergedExpert:
    """What the ``compared`` inputs say, and the answers to those that are ``shown``."""
    planned = max(len(task.order[: spec.certificate.per_task]), compared.distances.n)
    # see ``looked_at``: on fewer it was compared only if it fails by such an interval
    failed_early = compared.distances.n < planned
    level = spec.certificate.early_level if failed_early else spec.level
    distances, agreement = compared.distances, compared.agreement
    distortion, generative = float(np.mean(compared.moved)), task.reading == "greedy"
    outputs = dict(zip(shown, engine.outputs(task, shown), strict=True)) if shown else {}
    return MergedExpert(
        name=task.name,
        reading=task.reading,
        inputs=distances.n,
        planned=planned,
        compared_by=distances.comparison,
        cut=distances.cut,
        unended=sum(compared.unended),
        disagreement=distances.disagreement(level),
        least=distances.mean_least,
        most=distances.mean_most,
        disagreement_upper=distances.upper(level),
        token_agreement=float(np.mean(agreement.matching)) if generative else None,
        total_variation=float(np.mean(agreement.variations)) if generative else None,
        kl=float(np.mean(agreement.divergences)),
        distortion=distortion,
        relative_distortion=Value.computed(
            lambda: metrics.relative_size(distortion, float(np.mean(compared.own)))
        ),
        degenerate=_degeneracy(task, compared, outputs),
        changed=tuple(
            ChangedAnswer(
                index=compared.inputs[k],
                expert=compared.outputs[k],
                merged=outputs.get(compared.inputs[k]),
                distance=distances.seen[k],
                kl=agreement.divergences[k],
            )
            for k in compared.differing
        ),
    )


def _degeneracy(
    task: Task, compared: ComparedInputs, outputs: Mapping[int, str]
) -> Degeneracy | None:
    """Whether the first answers are none any more, where most of all answers are others."""
    asked = compared.inputs
    if task.reading == "greedy":
        asked = asked[:DECODED] if 2 * len(compared.differing) > len(asked) else ()
    if not outputs:
        return None
    return degeneracy(
        [outputs[index] for index in asked],
        compared.outputs[: len(asked)],
        [task.examples[index].choices for index in asked],
    )


def compare_inputs(context: Context, task: Task, reference: OwnAnswers) -> ComparedInputs:
    """The loaded model on the inputs of ``reference``."""
    engine, compare = context.workspace.engine, context.workspace.comparer(task.name)
    if is_decoded(context, task):
        engine.answer([(task, reference.inputs)], with_states=True, to_score=True)
    states = own_states(engine, task, reference.inputs)
    agreement = _agreement(engine, task, reference, states)
    differs = [distance > 0 for distance in agreement.distances]
    if compare is None and task.reading == "greedy":
        places = [place for place, other in enumerate(differs) if other]
        for place in same_text(engine, task, reference, states, places):
            differs[place] = False
    pairs = list(zip(states, reference.states, strict=True))
    return ComparedInputs(
        inputs=reference.inputs,
        distances=Distances.exact(differs, reference.cut)
        if compare is None
        else compare(reference.said, engine.said(task, reference.inputs)),
        agreement=agreement,
        moved=tuple(
            metrics.mean_square_norm([merged.numpy().astype(np.float64) - own.numpy()])
            for merged, own in pairs
        ),
        own=tuple(metrics.mean_square_norm([own.numpy()]) for _, own in pairs),
        outputs=reference.outputs,
        unended=reference.cut,
    )


def _agreement(
    engine: Engine, task: Task, reference: OwnAnswers, states: Sequence[Tensor]
) -> Agreement:
    if reference.choice_scores is not None:
        own = [scores[None] for scores in reference.choice_scores]
        merged = [scores[None] for scores in engine.choice_scores(task, reference.inputs)]
        return agreement_of(own, merged)
    logits_each, head = engine.require_head().logits_each, engine.mixed_head({task.name: 1.0})
    agreement = agreement_of(logits_each(reference.states, head), logits_each(states))
    engine.note_same(task, compress(reference.inputs, agreement.same))
    return agreement


def is_decoded(context: Context, task: Task) -> bool:
    """Whether all answers are asked for in the end, so that they are read together with states."""
    if task.reading != "greedy":
        return False
    metric = context.gate.spec.experts[task.name].metric
    scored = context.reaches("eval") and context.pool.labelled(task.name)
    compared = context.workspace.comparer(task.name) is not None
    return compared or (scored and metric in BUILTIN_METRICS)


def first_shown(context: Context, task: Task, compared: ComparedInputs) -> tuple[int, ...]:
    """Inputs whose answers are decoded: those that show whether the loaded model still answers,
    where most answers are no longer the expert's own, and the worst of those that changed."""
    if task.reading != "greedy" or context.workspace.comparer(task.name) is not None:
        return compared.inputs  # they are at hand
    if 2 * len(compared.differing) > len(compared.inputs):
        return compared.inputs[:DECODED]
    return tuple(compared.inputs[k] for k in compared.differing[:DECODED])
