"""Stage 5: measured scores where there are labels, and the loss of Eq. 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate import metrics
from pytest_mergegate.evaluation.scoring import Scored, Scores, score_loaded
from pytest_mergegate.spec import HARNESS
from pytest_mergegate.values import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.engine.tasks import Task
    from pytest_mergegate.gatefile import Gate
    from pytest_mergegate.options import Scorer

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
) -> EvaluateResult:
    """Score the merged model, which must be loaded."""
    tasks = {name: engine.tasks[name] for name in references}
    merged = {
        n: _distinct(_score_loaded(engine, t, gate, scorer), t, gate) for n, t in tasks.items()
    }
    return EvaluateResult(
        method=method,
        experts=tuple(_expert(n, own, merged[n], gate) for n, own in references.items()),
    )


def _score_loaded(engine: Engine, task: Task, gate: Gate, scorer: Scorer | None) -> Scored:
    return score_loaded(engine, task, gate.spec.experts[task.name].metric, gate.root, scorer)


def _distinct(scored: Scored, task: Task, gate: Gate) -> Scores:
    """Without the copies of an input, which are no evidence of their own."""
    if gate.spec.experts[task.name].metric.startswith(HARNESS):  # which has examples of its own
        return scored.scores
    return scored.scores[sorted(task.order)]


def _expert(name: str, reference: ReferenceScores, merged: Scores, gate: Gate) -> ExpertScores:
    own, after = float(reference.expert.mean()), float(merged.mean())
    return ExpertScores(
        name=name,
        examples=len(merged),
        score_base=float(reference.base.mean()),
        score_expert=own,
        score_merged=after,
        loss=Value.computed(
            # of sums: a loss of 1 in 100 is no round-off over 1 %
            lambda: metrics.merging_loss(float(merged.sum()), float(reference.expert.sum())),
            lambda: metrics.merging_loss_interval(
                merged,
                reference.expert,
                confidence=gate.spec.loss_level,
                binary=gate.spec.experts[name].metric in _BINARY,
            ),
        ),
        retention=Value.computed(lambda: metrics.retention(after, own, reference.chance)),
    )
