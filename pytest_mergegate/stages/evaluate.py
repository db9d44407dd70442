"""Stage 5: measured scores where there are labels, and the loss of Eq. 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.evaluation.scoring import Scored, Scores, score_loaded
from pytest_mergegate.gate.spec import FEWEST, HARNESS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.options import Scorer

_BINARY = frozenset({"exact_match", "accuracy"})
"""Metrics that know no scores but 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class ReferenceScores:
    """Scores of one task without any merge, in [0, 1], one per example that is no copy."""

    base: Scores
    expert: Scores
    chance: float
    """The majority class's share where answers are choices or labels, else 0."""
    of_outputs: bool
    """Whether the scores follow from the answers alone, so that a certificate bounds them."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """The scores on examples whose answers were not compared: a loss that owes nothing to the
    disagreement, which alone may teach what a disagreement costs (THEORY 9)."""

    examples: int
    score_base: float
    score_expert: float
    score_merged: float
    loss: Value
    """Eq. 1 in percent, with its interval."""


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """One method's measured losses; experts without targets are absent."""

    method: str
    experts: tuple[ExpertScores, ...]


def read_reference_scores(
    engine: Engine, gate: Gate, scorer: Scorer | None
) -> dict[str, ReferenceScores]:
    """Score the base and every expert on the labelled tasks, once for all methods."""
    labelled = [task for name, task in engine.tasks.items() if engine.pool.labelled(name)]
    base = {task.name: _score_loaded(engine, task, gate, scorer) for task in labelled}
    references = {}
    for task in labelled:
        with engine.expert(task.name):
            expert = _score_loaded(engine, task, gate, scorer)
        references[task.name] = ReferenceScores(
            base=_distinct(base[task.name], task, gate),
            expert=_distinct(expert, task, gate),
            chance=expert.chance,
            of_outputs=expert.of_outputs,
        )
    return references


def run_evaluate(
    engine: Engine,
    method: str,
    references: Mapping[str, ReferenceScores],
    gate: Gate,
    scorer: Scorer | None,
    compared: Mapping[str, int],
) -> EvaluateResult:
    """Score the merged model, which must be loaded; ``compared`` says on how many of its inputs
    each expert was compared with it."""
    tasks = {name: engine.tasks[name] for name in references}
    merged = {
        n: _distinct(_score_loaded(engine, t, gate, scorer), t, gate) for n, t in tasks.items()
    }
    return EvaluateResult(
        method=method,
        experts=tuple(
            _expert(tasks[name], own, merged[name], gate, compared[name])
            for name, own in references.items()
        ),
    )


def _score_loaded(engine: Engine, task: Task, gate: Gate, scorer: Scorer | None) -> Scored:
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
