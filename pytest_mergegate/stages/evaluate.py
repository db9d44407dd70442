"""Stage 5: measured scores where there are labels, and the loss of Eq. 1."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import Float64s, result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.cache import Key
from pytest_mergegate.engine.running.workspace import own_processor
from pytest_mergegate.evaluation.scoring import Scored, Scores, score_loaded
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.sections import BUILTIN_METRICS, HARNESS, ROUGE
from pytest_mergegate.gate.spec import FEWEST
from pytest_mergegate.stages.context import Context, Results

if TYPE_CHECKING:  # which import torch, and this module
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.stages.merge import MergeResult
    from pytest_mergegate.stages.merge_versus_experts import MergedExpert

T = TypeVar("T")
_BINARY = frozenset({"exact_match", "accuracy"})
"""Metrics that know no scores but 0 and 1."""


@result
class ReferenceScores:
    """Scores of one task without any merge, in [0, 1], one per example that is no copy."""

    inputs: tuple[int, ...] | None
    """Which of the expert's examples these are; None for a harness's own."""
    base: Float64s
    expert: Float64s
    chance: float
    """The majority class's share where answers are choices or labels, else 0."""
    of_outputs: bool
    """Whether the scores follow from the answers alone, so that a certificate bounds them."""


@result
class MeasuredLoss:
    """Mean scores on some examples, and the loss between two of them."""

    examples: int
    """How many were scored; a copy counts once."""
    score_base: float
    score_expert: float
    score_merged: float
    loss: Value
    """Eq. 1 in percent, negative when the merge is worse, with its interval (THEORY 9)."""
    gain_kept: Value
    """Share of what the expert adds to its base that the merge keeps, with its interval; missing
    where these examples do not show that it adds anything."""


@result
class ExpertScores(MeasuredLoss):
    """What a merge leaves of one expert's score."""

    name: str
    retention: Value
    """Chance-corrected share of the expert's score that is kept."""
    shared: int | None
    """How many of the examples were compared as well; None for a harness's own examples."""
    apart: MeasuredLoss | None
    """On examples whose answers were not compared, where enough of them are left: a loss that owes
    nothing to the disagreement, which alone may teach what a disagreement costs (THEORY 9)."""
    scores: Float64s
    """Of the merge, one per example, as ``ReferenceScores.inputs`` has them."""
    answers: Mapping[int, str]
    """What the merge says to the inputs that it answers differently, by example; none where answers
    are not all that was scored."""


@result
class EvaluateResult:
    """One method's measured losses; experts without targets are absent."""

    method: str
    experts: tuple[ExpertScores, ...]


def run(context: Context, earlier: Results) -> Iterator[Results]:
    """Hold every merge's scores against those of the experts by themselves, which the merge stage
    has read. Raises GateError."""
    known = {evaluation.method for evaluation in earlier.evaluations}
    for merge in (m for m in earlier.merges if m.method.label not in known):
        evaluate = partial(_evaluate, context, merge, earlier)
        key = context.key(
            "eval",
            method=merge.method.plain,
            processor=own_processor(),
            rouge=_rouge(context, context.pool.names),
        )
        fresh = merge.method.root is not None
        found = _kept(context, EvaluateResult, key, context.pool.names, evaluate, fresh=fresh)
        yield (earlier := replace(earlier, evaluations=(*earlier.evaluations, found)))


def reference_scores(context: Context) -> dict[str, ReferenceScores]:
    """Of the base and of every expert by itself, on the labelled tasks; once for all methods, and
    for all pools with the same base, expert and examples."""
    names = [name for name in context.pool.names if context.pool.labelled(name)]
    with context.clock.timed("eval"):
        base = {name: _by_itself(context, name, None) for name in names}
        experts = {name: _by_itself(context, name, name) for name in names}
    return {
        name: ReferenceScores(
            inputs=own.inputs,
            base=base[name].scores,
            expert=own.scores,
            chance=own.chance,
            of_outputs=own.of_outputs,
        )
        for name, own in experts.items()
    }


@result
class _OwnScores:
    """Of one model on one task."""

    inputs: tuple[int, ...] | None
    scores: Float64s
    chance: float
    of_outputs: bool


def _by_itself(context: Context, task: str, model: str | None) -> _OwnScores:
    """Of an expert or, as None, the base."""
    workspace, spec = context.workspace, context.gate.spec

    def score() -> _OwnScores:
        context.read_references()  # answers decoded there are not decoded again
        engine = workspace.engine
        with engine.expert(model) if model is not None else nullcontext():
            found = _scored(context, engine.tasks[task])
        return _OwnScores(
            inputs=_inputs(context.gate, engine.tasks[task]),
            scores=found.scores,
            chance=found.chance,
            of_outputs=found.of_outputs,
        )

    key = workspace.key(
        "own scores",
        model="base" if model is None else workspace.models[model],
        examples=context.pool.examples_fingerprint.get(task),
        read=spec.experts[task].how_read,
        max_answer_tokens=workspace.answer_limit,
        rouge=_rouge(context, [task]),
    )
    return _kept(context, _OwnScores, key, [task], score)


def score_merge(context: Context) -> dict[str, Scored]:
    """Of the merge that is in place, by expert."""
    with context.clock.timed("eval"):
        return {task.name: _scored(context, task) for task in _labelled(context)}


def _evaluate(context: Context, merge: "MergeResult", earlier: Results) -> EvaluateResult:
    method, merged = merge.method, earlier.scored.get(merge.method.label)
    if merged is None:  # the merge was kept, and its scores were not
        with context.merged(method):
            merged = score_merge(context)
    tasks = context.workspace.engine.tasks
    experts = tuple(
        _expert(tasks[name], own, merged[name], context.gate, merge.expert(name))
        for name, own in earlier.scores.items()
    )
    return EvaluateResult(method=method.label, experts=experts)


def _kept(
    context: Context,
    kind: Any,
    key: Key,
    tasks: Iterable[str],
    compute: Callable[[], T],
    *,
    fresh: bool = False,
) -> T:
    """What the cache holds of the scores of some ``tasks``, where they can be kept: code that is
    not ours may change from run to run, and so may what is scored where it is to be ``fresh``."""
    experts = context.gate.spec.experts
    if fresh or not all(experts[task].metric in BUILTIN_METRICS for task in tasks):
        return compute()
    return context.workspace.kept(kind, key, compute)


def _rouge(context: Context, tasks: Iterable[str]) -> str | None:
    """The release of what scores some of the ``tasks``, as a part of a key."""
    experts = context.gate.spec.experts
    is_asked = any(experts[task].metric == ROUGE for task in tasks)
    return version("rouge-score") if is_asked else None


def _labelled(context: Context) -> list["Task"]:
    tasks = context.workspace.engine.tasks
    return [task for name, task in tasks.items() if context.pool.labelled(name)]


def _scored(context: Context, task: "Task") -> Scored:
    """The loaded model on a task, without the copies of an input, which are no evidence of their
    own; a harness has examples of its own."""
    engine, gate = context.workspace.engine, context.gate
    metric = gate.spec.experts[task.name].metric
    found = score_loaded(engine, task, metric, gate.root, context.options.scorer)
    inputs = _inputs(gate, task)
    return found if inputs is None else replace(found, scores=found.scores[list(inputs)])


def _inputs(gate: Gate, task: "Task") -> tuple[int, ...] | None:
    """Which examples are scored; None where a harness has its own."""
    metric = gate.spec.experts[task.name].metric
    return None if metric.startswith(HARNESS) else tuple(sorted(task.order))


def _expert(
    task: "Task", reference: ReferenceScores, merged: Scored, gate: Gate, compared: "MergedExpert"
) -> ExpertScores:
    scores, outputs = merged.scores, merged.outputs
    own = _measured(reference, scores, np.ones(len(scores), dtype=bool), task.name, gate)
    apart = shared = None
    if reference.inputs is not None:
        left = ~np.isin(reference.inputs, task.order[: compared.inputs])
        shared = int((~left).sum())
        if left.sum() >= FEWEST:
            apart = _measured(reference, scores, left, task.name, gate)
    return ExpertScores(
        **vars(own),
        name=task.name,
        retention=Value.computed(
            lambda: metrics.retention(own.score_merged, own.score_expert, reference.chance)
        ),
        shared=shared,
        apart=apart,
        scores=scores,
        answers={c.index: outputs[c.index] for c in compared.changed} if outputs else {},
    )


def _measured(
    reference: ReferenceScores, merged: Scores, which: NDArray[np.bool_], name: str, gate: Gate
) -> MeasuredLoss:
    base, own, after = reference.base[which], reference.expert[which], merged[which]
    sums = [float(scores.sum()) for scores in (after, own, base)]  # see the loss
    level = gate.spec.loss_level
    return MeasuredLoss(
        examples=len(after),
        score_base=float(base.mean()),
        score_expert=float(own.mean()),
        score_merged=float(after.mean()),
        loss=Value.computed(
            # of sums: a loss of 1 in 100 is no round-off over 1 %
            lambda: metrics.merging_loss(float(after.sum()), float(own.sum())),
            lambda: metrics.merging_loss_interval(
                after,
                own,
                confidence=level,
                binary=gate.spec.experts[name].metric in _BINARY,
            ),
        ),
        gain_kept=Value.computed(
            lambda: metrics.gain_kept(*sums),
            lambda: metrics.gain_kept_interval(after, own, base, confidence=level),
        ),
    )
