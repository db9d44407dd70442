"""Metrics by name: the loaded model to one score in [0, 1] per example."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.evaluation.own_metric import OwnMetric
from pytest_mergegate.gate.options import Scorer
from pytest_mergegate.gate.sections import BUILTIN_METRICS, HARNESS

if TYPE_CHECKING:  # which import torch
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.tasks import Task

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """How well the loaded model does one task."""

    scores: Scores
    """One per example, in [0, 1]."""
    chance: float
    """The majority class's share where answers are choices or labels, else 0."""
    of_outputs: bool
    """Whether the scores follow from the answers to the task's own inputs alone: only then does a
    bound on how many of those change bound the loss."""


def score_loaded(
    engine: "Engine", task: "Task", metric: str, root: Path, scorer: Scorer | None = None
) -> Scored:
    """Score the loaded model on the expert's own task.

    ``metric`` is ``exact_match``, ``accuracy``, ``rouge_l``, ``lm_eval:<task>``, or
    ``package.module:function`` of (outputs, targets) or (model, tokenizer, examples) that returns
    one number in [0, 1] per example; modules are also found beside the gate file, in ``root``, and
    tasks in the pool's folder of them. ``scorer`` is asked before such a function is looked for.
    Raises PoolError naming the example that could not be scored.
    """
    if metric.startswith(HARNESS):
        from pytest_mergegate.evaluation.harness import harness_scores  # which needs torch

        name, tasks = metric.removeprefix(HARNESS), engine.pool.tasks
        return harness_scores(engine, name, expert=task.name, tasks=tasks)
    targets = [example.target or "" for example in task.examples]
    chance = 0.0 if task.reading == "greedy" else metrics.majority_rate(targets)
    if metric in BUILTIN_METRICS:
        scores = score_outputs(metric, engine.outputs(task, range(len(targets))), targets)
        return Scored(scores=scores, chance=chance, of_outputs=True)
    own = OwnMetric(metric=metric, expert=task.name, examples=task.examples)
    hooked = own.by_hook(scorer, engine)
    if hooked is not None:
        return Scored(scores=hooked, chance=chance, of_outputs=False)
    function = own.load(root)
    if of_outputs := not own.takes_model(function):
        scores = own.of_outputs(function, engine.outputs(task, range(len(targets))), targets)
    else:
        scores = own.of_model(function, engine.model)
    return Scored(scores=scores, chance=chance, of_outputs=of_outputs)


def score_outputs(metric: str, outputs: Sequence[str], targets: Sequence[str]) -> Scores:
    """Score ``outputs`` against ``targets`` [n] → [n] by one of the built-in metrics."""
    if metric == "rouge_l":
        return _rouge_l(outputs, targets)
    pairs = zip(outputs, targets, strict=True)
    if metric == "accuracy":
        return np.array([o == t for o, t in pairs], dtype=np.float64)
    return np.array([o.strip() == t.strip() for o, t in pairs], dtype=np.float64)


def _rouge_l(outputs: Sequence[str], targets: Sequence[str]) -> Scores:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise GateError(
            "metric rouge_l needs the rouge-score package",
            fix="pip install 'pytest-mergegate[rouge]'",
        ) from None
    scorer = RougeScorer(["rougeL"])
    return np.array(
        [scorer.score(t, o)["rougeL"].fmeasure for o, t in zip(outputs, targets, strict=True)]
    )
