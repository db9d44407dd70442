"""Stage 5: measured scores where there are labels, and the loss of Eq. 1."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import Float64s, result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.cache import Key
from pytest_mergegate.engine.running.workspace import own_processor
from pytest_mergegate.evaluation.scoring import Scored, score_loaded
from pytest_mergegate.gate.sections import BUILTIN_METRICS, HARNESS, ROUGE
from pytest_mergegate.gate.spec import FEWEST
from pytest_mergegate.stages.context import Context, Results
from pytest_mergegate.stages.measured import MeasuredLoss, ReferenceScores, measured_loss

if TYPE_CHECKING:  # which import torch, and this module
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.stages.merge import MergeResult
    from pytest_mergegate.stages.merge_versus_experts import ChangedAnswer, MergedExpert

T = TypeVar("T")


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
    inputs: tuple[int, ...] | None
    """Which of the expert's examples were scored; None for a harness's own."""
    scores: Float64s
    """Of the merge, one per example."""
    answers: Mapping[int, str]
    """What the merge says to the inputs that it answers differently, by example, as far as that was
    read; none where answers are not all that was scored."""


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
            found = _scored(context, engine, engine.tasks[task])
        return _OwnScores(
            inputs=_inputs(context, task),
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


def score_merge(
    context: Context,
    engine: "Engine",
    experts: Iterable["MergedExpert"],
    references: Mapping[str, ReferenceScores],
) -> dict[str, Scored]:
    """Of the merge that is in place in ``engine``, by expert; of one that failed early, on what was
    compared.

    The answers that reports show are read to their end.
    """
    compared, found = {expert.name: expert for expert in experts}, {}
    with context.clock.timed("eval"):
        for task in map(engine.tasks.__getitem__, filter(context.pool.labelled, compared)):
            own = compared[task.name]
            scored = found[task.name] = _scored(context, engine, task, own)
            inputs, said = _inputs(context, task.name, own), scored.outputs
            if said is None or inputs is None:
                continue
            scores = score_pairs(references[task.name], inputs, scored.scores)
            most = context.gate.spec.certificate.shown
            shown = [c.index for c in worst_first(own.changed, scores)[:most]]
            whole = dict(zip(shown, engine.outputs(task, shown), strict=True))
            found[task.name] = replace(scored, outputs={**said, **whole})
    return found


def score_pairs(
    reference: ReferenceScores, inputs: Sequence[int], merged: Float64s
) -> dict[int, tuple[float, float]]:
    """The expert's score and the merge's by example."""
    pairs = zip(reference.only(inputs).expert.tolist(), merged.tolist(), strict=True)
    return dict(zip(inputs, pairs, strict=True))


def worst_first(
    changed: Iterable["ChangedAnswer"], scores: Mapping[int, tuple[float, float]]
) -> list["ChangedAnswer"]:
    """Those whose score falls most; of those that fall alike the order stays."""

    def fall(case: "ChangedAnswer") -> float:
        own, merged = scores.get(case.index, (0.0, 0.0))
        return round(merged - own, 9)  # on round-off hangs no order

    return sorted(changed, key=fall)


def _evaluate(context: Context, merge: "MergeResult", earlier: Results) -> EvaluateResult:
    method, merged = merge.method, earlier.scored.get(merge.method.label)
    if merged is None:  # the merge was kept, and its scores were not
        with context.answering(method) as engine:
            merged = score_merge(context, engine, merge.experts, earlier.scores)
    tasks = context.workspace.engine.tasks
    experts = tuple(
        _expert(context, tasks[name], own, merged[name], merge.expert(name))
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


def _scored(
    context: Context, engine: "Engine", task: "Task", compared: "MergedExpert | None" = None
) -> Scored:
    """The model that ``engine`` has loaded on a task, without the copies of an input, which are no
    evidence of their own; a harness has examples of its own."""
    gate = context.gate
    metric = gate.spec.experts[task.name].metric
    score = partial(score_loaded, engine, task, metric, gate.root, context.options.scorer)
    inputs = _inputs(context, task.name, compared)
    if inputs is None:
        return score()
    if len(inputs) < len(context.workspace.draws[task.name].order):
        return score(inputs=inputs)
    found = score()
    return replace(found, scores=found.scores[list(inputs)])


def _inputs(
    context: Context, name: str, compared: "MergedExpert | None" = None
) -> tuple[int, ...] | None:
    """Which examples are scored; None where a harness has its own."""
    if context.gate.spec.experts[name].metric.startswith(HARNESS):
        return None
    asked = context.workspace.draws[name].order
    if compared is not None and compared.failed_early:
        asked = asked[: compared.inputs]
    return tuple(sorted(asked))


def _expert(
    context: Context,
    task: "Task",
    reference: ReferenceScores,
    merged: Scored,
    compared: "MergedExpert",
) -> ExpertScores:
    spec, scores = context.gate.spec, merged.scores
    changed = {case.index for case in compared.changed}
    metric, inputs = spec.experts[task.name].metric, _inputs(context, task.name, compared)
    level = spec.certificate.early_level if compared.failed_early else spec.loss_level
    if inputs is not None:
        reference = reference.only(inputs)
    own = measured_loss(reference, scores, metric, level)
    apart = shared = None
    if inputs is not None:
        left = ~np.isin(inputs, task.order[: compared.inputs])
        shared = int((~left).sum())
        if left.sum() >= FEWEST:
            others = reference.only(np.array(inputs)[left].tolist())
            apart = measured_loss(others, scores[left], metric, level)
    return ExpertScores(
        **vars(own),
        name=task.name,
        retention=Value.computed(
            lambda: metrics.retention(own.score_merged, own.score_expert, reference.chance)
        ),
        shared=shared,
        apart=apart,
        inputs=inputs,
        scores=scores,
        answers={k: said for k, said in (merged.outputs or {}).items() if k in changed},
    )
