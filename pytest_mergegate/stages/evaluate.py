"""Stage 5: measured scores where there are labels, and the loss of Eq. 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import Float64s, result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.workspace import own_processor
from pytest_mergegate.evaluation.scoring import Scored, score_loaded
from pytest_mergegate.gate.spec import BUILTIN_METRICS, FEWEST, HARNESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.evaluation.scoring import Scores
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.spec import Stage
    from pytest_mergegate.stages.context import Context
    from pytest_mergegate.stages.merge import MergeResult
    from pytest_mergegate.stages.results import Results

_BINARY = frozenset({"exact_match", "accuracy"})
"""Metrics that know no scores but 0 and 1."""


@result
class ReferenceScores:
    """Scores of one task without any merge, in [0, 1], one per example that is no copy."""

    base: Float64s
    expert: Float64s
    chance: float
    """The majority class's share where answers are choices or labels, else 0."""
    of_outputs: bool
    """Whether the scores follow from the answers alone, so that a certificate bounds them."""


@result
class Apart:
    """The scores on examples whose answers were not compared: a loss that owes nothing to the
    disagreement, which alone may teach what a disagreement costs (THEORY 9)."""

    examples: int
    score_base: float
    score_expert: float
    score_merged: float
    loss: Value
    """Eq. 1 in percent, with its interval."""


@result
class ExpertScores:
    """What a merge leaves of one expert's score."""

    name: str
    examples: int
    """How many were scored; a copy counts once."""
    score_base: float
    score_expert: float
    score_merged: float
    loss: Value
    """Eq. 1 in percent, negative when the merge is worse, with its interval (THEORY 9)."""
    retention: Value
    """Chance-corrected share of the expert's score that is kept."""
    shared: int | None
    """How many of the examples were compared as well; None for a harness's own examples."""
    apart: Apart | None
    """Where enough of the others are left."""


@result
class EvaluateResult:
    """One method's measured losses; experts without targets are absent."""

    method: str
    experts: tuple[ExpertScores, ...]


@dataclass(frozen=True)
class Evaluate:
    """The stage."""

    name: ClassVar[Stage] = "eval"

    def run(self, context: Context, earlier: Results) -> Iterator[Results]:
        """Hold every merge's scores against those of the experts by themselves, which the merge
        stage has read. Raises GateError."""
        for merge in earlier.merges:
            found = _find(context, merge, earlier.scores or {})
            yield (earlier := replace(earlier, evaluations=(*earlier.evaluations, found)))


def reference_scores(context: Context) -> dict[str, ReferenceScores]:
    """Of the base and of every expert by itself, on the labelled tasks; once for all methods."""

    def score() -> dict[str, ReferenceScores]:
        context.read_references()  # answers decoded there are not decoded again
        with context.clock.timed("eval"):
            return _score_references(context)

    if not _are_kept(context):
        return score()
    return context.cache.kept(dict[str, ReferenceScores], _key(context, "scores"), score)


def score_merge(context: Context) -> dict[str, Scores]:
    """Of the merge that is in place, by expert."""
    with context.clock.timed("eval"):
        return {
            task.name: _distinct(_score_loaded(context, task), task, context.gate)
            for task in _labelled(context)
        }


def _find(
    context: Context, merge: MergeResult, references: Mapping[str, ReferenceScores]
) -> EvaluateResult:
    method = merge.method

    def evaluate() -> EvaluateResult:
        merged = context.scores.get(method.label)
        if merged is None:  # the merge was kept, and its scores were not
            with context.merged(method):
                merged = score_merge(context)
        tasks = context.workspace.engine.tasks
        experts = tuple(
            _expert(tasks[name], own, merged[name], context.gate, merge.expert(name).inputs)
            for name, own in references.items()
        )
        return EvaluateResult(method=method.label, experts=experts)

    if not _are_kept(context):
        return evaluate()
    key = _key(context, "eval", method=method.plain, processor=own_processor())
    return context.cache.kept(EvaluateResult, key, evaluate)


def _are_kept(context: Context) -> bool:
    """Whether scores can be kept: code that is not ours may change from run to run."""
    metrics_asked = {expert.metric for expert in context.gate.spec.experts.values()}
    return metrics_asked <= {*BUILTIN_METRICS}


def _key(context: Context, kind: str, **more: Any) -> dict[str, Any]:
    asked = {expert.metric for expert in context.gate.spec.experts.values()}
    rouge = version("rouge-score") if "rouge_l" in asked else None
    return context.key(kind, rouge=rouge, **more)


def _labelled(context: Context) -> list[Task]:
    tasks = context.workspace.engine.tasks
    return [task for name, task in tasks.items() if context.pool.labelled(name)]


def _score_references(context: Context) -> dict[str, ReferenceScores]:
    engine, gate = context.workspace.engine, context.gate
    base = {task.name: _score_loaded(context, task) for task in _labelled(context)}
    references = {}
    for task in _labelled(context):
        with engine.expert(task.name):
            expert = _score_loaded(context, task)
        references[task.name] = ReferenceScores(
            base=_distinct(base[task.name], task, gate),
            expert=_distinct(expert, task, gate),
            chance=expert.chance,
            of_outputs=expert.of_outputs,
        )
    return references


def _score_loaded(context: Context, task: Task) -> Scored:
    engine, gate, scorer = context.workspace.engine, context.gate, context.options.scorer
    return score_loaded(engine, task, gate.spec.experts[task.name].metric, gate.root, scorer)


def _distinct(scored: Scored, task: Task, gate: Gate) -> Scores:
    """Without the copies of an input, which are no evidence of their own."""
    if gate.spec.experts[task.name].metric.startswith(HARNESS):  # which has examples of its own
        return scored.scores
    return scored.scores[sorted(task.order)]


def _expert(
    task: Task, reference: ReferenceScores, merged: Scores, gate: Gate, compared: int
) -> ExpertScores:
    own, after = float(reference.expert.mean()), float(merged.mean())
    again = _compared_too(task, gate, compared)
    left = len(merged) if again is None else int((~again).sum())
    return ExpertScores(
        name=task.name,
        examples=len(merged),
        score_base=float(reference.base.mean()),
        score_expert=own,
        score_merged=after,
        loss=_loss(merged, reference.expert, task.name, gate),
        retention=Value.computed(lambda: metrics.retention(after, own, reference.chance)),
        shared=None if again is None else len(merged) - left,
        apart=_apart(reference, merged, ~again, task.name, gate)
        if again is not None and left >= FEWEST
        else None,
    )


def _compared_too(task: Task, gate: Gate, compared: int) -> NDArray[np.bool_] | None:
    """Which of the scored examples are among the inputs on which answers were compared."""
    if gate.spec.experts[task.name].metric.startswith(HARNESS):
        return None
    return np.isin(sorted(task.order), task.order[:compared])


def _apart(
    reference: ReferenceScores, merged: Scores, left: NDArray[np.bool_], name: str, gate: Gate
) -> Apart:
    base, own, after = reference.base[left], reference.expert[left], merged[left]
    return Apart(
        examples=len(after),
        score_base=float(base.mean()),
        score_expert=float(own.mean()),
        score_merged=float(after.mean()),
        loss=_loss(after, own, name, gate),
    )


def _loss(merged: Scores, expert: Scores, name: str, gate: Gate) -> Value:
    return Value.computed(
        # of sums: a loss of 1 in 100 is no round-off over 1 %
        lambda: metrics.merging_loss(float(merged.sum()), float(expert.sum())),
        lambda: metrics.merging_loss_interval(
            merged,
            expert,
            confidence=gate.spec.loss_level,
            binary=gate.spec.experts[name].metric in _BINARY,
        ),
    )
