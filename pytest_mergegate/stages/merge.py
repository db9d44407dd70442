"""Stage 4: the real merge, against each expert on that expert's own unlabelled inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.engine.hidden_states import read_probes
from pytest_mergegate.evaluation.degenerate import Degeneracy, degeneracy
from pytest_mergegate.values import Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.agreement import Agreement
    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.engine.tasks import Task
    from pytest_mergegate.merging.merge import Merged
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.spec import GateSpec
    from pytest_mergegate.stages.hidden import HiddenResult


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What one expert does on its own inputs: the yardstick for every merge."""

    answers: tuple[list[int], ...]
    outputs: tuple[str, ...]
    states: tuple[Tensor, ...]
    """At the answer positions, per input [T, d]."""
    choice_scores: tuple[Tensor, ...] | None
    cut: tuple[bool, ...]
    """Per input, whether the expert's answer was cut at the limit on its length."""


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
class MergeResult:
    """One method's merge against every expert."""

    method: Method
    fidelity: Value
    linearity_gap: Value
    """η: rms distance between the merged states and the mix of the experts' states."""
    experts: tuple[MergedExpert, ...]

    def expert(self, name: str) -> MergedExpert:
        """The comparison with one expert."""
        return next(expert for expert in self.experts if expert.name == name)


def read_references(engine: Engine) -> dict[str, Reference]:
    """Run every expert on its own certificate inputs, once for all methods."""
    references = {}
    for name, task in engine.tasks.items():
        with engine.expert(name):
            references[name] = _reference(engine, task)
    return references


def run_merge(
    engine: Engine,
    method: Method,
    merged: Merged,
    hidden: HiddenResult,
    references: Mapping[str, Reference],
    spec: GateSpec,
) -> MergeResult:
    """Compare the merged model, which must be loaded, with every expert."""
    return MergeResult(
        method=method,
        fidelity=Value.missing("not_linear")
        if merged.fidelity is None
        else Value(number=merged.fidelity),
        linearity_gap=_linearity_gap(engine, method, hidden),
        experts=tuple(
            _compare(engine, engine.tasks[name], reference, spec)
            for name, reference in references.items()
        ),
    )


def _reference(engine: Engine, task: Task) -> Reference:
    inputs, model = task.certificate, engine.require_head()
    answers = engine.answers(task, inputs)
    return Reference(
        answers=tuple(answers),
        outputs=tuple(engine.outputs(task, inputs)),
        states=tuple(_own_states(engine, task)),
        choice_scores=None if task.choices is None else tuple(engine.choice_scores(task, inputs)),
        cut=tuple(
            task.reading == "greedy" and not model.is_complete(a, task.stop) for a in answers
        ),
    )


def _own_states(engine: Engine, task: Task) -> list[Tensor]:
    """States of the loaded model that give its answer where the expert's own is forced."""
    model = engine.require_head()
    positions = model.answer_positions
    return model.states([engine.row(task, k, positions) for k in task.certificate], positions)


def _compare(engine: Engine, task: Task, reference: Reference, spec: GateSpec) -> MergedExpert:
    states = _own_states(engine, task)
    agreement = _agreement(engine, task, reference, states)
    confidence = spec.certificate.confidence
    differing, n = agreement.disagreements, agreement.n
    pairs = zip(reference.cut, agreement.differs, strict=True)
    cut = sum(was_cut and not differs for was_cut, differs in pairs)
    low, _ = metrics.disagreement_interval(differing, n, confidence=confidence)
    _, high = metrics.disagreement_interval(differing + cut, n, confidence=confidence)
    distortion = metrics.mean_square_norm(
        [_difference(merged, own) for merged, own in zip(states, reference.states, strict=True)]
    )
    own_size = metrics.mean_square_norm([own.numpy() for own in reference.states])
    return MergedExpert(
        name=task.name,
        reading=task.reading,
        inputs=n,
        cut=cut,
        disagreement=Value(number=agreement.rate, interval=(low, high)),
        disagreement_upper=metrics.disagreement_bound(differing + cut, n, confidence=confidence),
        kl=agreement.kl,
        distortion=distortion,
        relative_distortion=Value.computed(lambda: metrics.relative_size(distortion, own_size)),
        degenerate=degeneracy(
            engine.outputs(task, task.certificate),
            reference.outputs,
            [task.examples[index].choices for index in task.certificate],
        ),
    )


def _agreement(
    engine: Engine, task: Task, reference: Reference, states: Sequence[Tensor]
) -> Agreement:
    from pytest_mergegate.engine.comparison import compare

    if reference.choice_scores is not None:
        own = [scores[None] for scores in reference.choice_scores]
        merged = [scores[None] for scores in engine.choice_scores(task, task.certificate)]
        return compare(own, merged)
    logits, head = engine.require_head().logits, engine.mixed_head({task.name: 1.0})
    own = [logits(state, head) for state in reference.states]
    agreement = compare(own, [logits(state) for state in states])
    for index, answer, differs in zip(
        task.certificate, reference.answers, agreement.differs, strict=True
    ):
        if not differs:
            engine.note_answer(task, index, answer)
    return agreement


def _difference(merged: Tensor, own: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return merged.numpy().astype(np.float64) - own.numpy().astype(np.float64)


def _linearity_gap(engine: Engine, method: Method, hidden: HiddenResult) -> Value:
    if method.name != "linear":
        return Value.missing("not_linear")
    states = hidden.states
    weights = np.array([hidden.scales[method.label][name] for name in states.names])
    mixed = metrics.mix_states(states.experts, states.base, weights)
    merged = read_probes(engine, states)
    return Value(number=metrics.linearity_gap(merged, mixed))
