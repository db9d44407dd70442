"""Metrics by name: the loaded model to one score in [0, 1] per example."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.plain import Float64s, result
from pytest_mergegate.evaluation.comparing import require_rouge_score
from pytest_mergegate.evaluation.own_metric import OwnMetric
from pytest_mergegate.gate.options import Scorer
from pytest_mergegate.gate.sections import BUILTIN_METRICS, HARNESS

if TYPE_CHECKING:  # which import torch
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.tasks import Task

Scores = NDArray[np.float64]


@result
class Scored:
    """How well the loaded model does one task."""

    scores: Float64s
    """One per example, in [0, 1]."""
    chance: float
    """What the one answer that is right most often would score where answers are choices or
    labels, else 0."""
    of_outputs: bool
    """Whether the scores follow from the answers to the task's own inputs alone: only then does a
    bound on how many of those change bound the loss."""
    outputs: Mapping[int, str] | None = None
    """The answers by example, where these are what was scored; without those that were not read to
    their end, since they could no longer be right."""


def score_loaded(
    engine: "Engine",
    task: "Task",
    metric: str,
    root: Path,
    scorer: Scorer | None = None,
    *,
    inputs: Sequence[int] | None = None,
) -> Scored:
    """Score the loaded model on the expert's own task, on some of its ``inputs`` or on all of them;
    a harness has examples of its own, and knows no others.

    ``metric`` is ``exact_match``, ``accuracy``, ``rouge_l``, ``lm_eval:<task>``, or
    ``package.module:function`` of (outputs, targets) or (model, tokenizer, examples) that returns
    one number in [0, 1] per example; modules are also found beside the gate file, in ``root``, and
    tasks in the pool's folder of them. ``scorer`` is asked before such a function is looked for. Of
    several references the one that scores best counts; a function of the model is handed them all.
    Raises PoolError naming the example that could not be scored.
    """
    if metric.startswith(HARNESS):
        from pytest_mergegate.evaluation.harness import harness_scores  # which needs torch

        name, tasks = metric.removeprefix(HARNESS), engine.pool.tasks
        return harness_scores(engine, name, expert=task.name, tasks=tasks)
    inputs = range(len(task.examples)) if inputs is None else inputs
    examples = [task.examples[index] for index in inputs]
    references = [example.references for example in examples]
    chance = 0.0 if task.reading == "greedy" else _chance(references)
    if metric in BUILTIN_METRICS:
        outputs = engine.outputs(task, inputs, to_score=True)
        scores = score_outputs(metric, outputs, references)
        pairs = zip(inputs, outputs, strict=True)
        said = {index: text for index, text in pairs if engine.is_whole(task, index)}
        return Scored(scores=scores, chance=chance, of_outputs=True, outputs=said)
    numbers = [task.numbers[index] for index in inputs]
    own = OwnMetric(metric=metric, expert=task.name, examples=examples, numbers=numbers)
    hooked = own.by_hook(scorer, engine)
    if hooked is not None:
        return Scored(scores=hooked, chance=chance, of_outputs=False)
    function = own.load(root)
    if own.takes_model(function):
        scores = own.of_model(function, engine.model)
        return Scored(scores=scores, chance=chance, of_outputs=False)
    outputs = engine.outputs(task, inputs)
    scores = own.of_outputs(function, outputs)
    said = dict(zip(inputs, outputs, strict=True))
    return Scored(scores=scores, chance=chance, of_outputs=True, outputs=said)


def score_outputs(
    metric: str, outputs: Sequence[str], references: Sequence[tuple[str, ...]]
) -> Scores:
    """Score ``outputs`` by one of the built-in metrics, each against the best of its
    ``references`` [n] → [n].

    A maximum moves no more than the most that one of its terms does, so what bounds a change of the
    score against one reference bounds it against the best of them, too.
    """
    score = _of_pair(metric)
    pairs = zip(outputs, references, strict=True)
    return np.array([max(score(o, r) for r in right) for o, right in pairs], dtype=np.float64)


def _of_pair(metric: str) -> Callable[[str, str], float]:
    """A built-in metric of an output and a reference."""
    if metric == "accuracy":
        return lambda output, reference: output == reference
    if metric == "exact_match":
        return lambda output, reference: output.strip() == reference.strip()
    require_rouge_score()
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return lambda output, reference: float(scorer.score(reference, output)["rougeL"].fmeasure)


def _chance(references: Sequence[tuple[str, ...]]) -> float:
    """The share of examples on which the label is right that is right most often."""
    counts = Counter(label for right in references for label in right)
    return max(counts.values()) / len(references)
