"""Metrics by name: outputs and targets to one score in [0, 1] per example."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.errors import GateError
from pytest_mergegate.evaluation.own_metric import apply_metric, load_metric

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Scores = NDArray[np.float64]


def score(
    metric: str, outputs: Sequence[str], targets: Sequence[str], *, expert: str, root: Path
) -> Scores:
    """Score ``outputs`` against ``targets`` [n] → [n].

    ``metric`` is ``exact_match``, ``accuracy``, ``rouge_l``, or ``package.module:function``, a
    function of (outputs, targets) that returns one number in [0, 1] per example; modules are
    also found beside the gate file, in ``root``. Raises PoolError naming the example that the
    function could not score.
    """
    match metric:
        case "exact_match":
            pairs = zip(outputs, targets, strict=True)
            return np.array([o.strip() == t.strip() for o, t in pairs], dtype=np.float64)
        case "accuracy":
            return np.array([o == t for o, t in zip(outputs, targets, strict=True)], dtype=float)
        case "rouge_l":
            return _rouge_l(outputs, targets)
        case _:
            function = load_metric(metric, expert=expert, root=root)
            return apply_metric(function, metric, outputs, targets, expert=expert)


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
