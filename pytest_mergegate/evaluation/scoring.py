"""Metrics by name: outputs and targets to one score in [0, 1] per example."""

from __future__ import annotations

import importlib
import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.errors import GateError, PoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
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
            return _own_function(metric, outputs, targets, expert=expert, root=root)


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


def _own_function(
    metric: str, outputs: Sequence[str], targets: Sequence[str], *, expert: str, root: Path
) -> Scores:
    function = _load(metric, expert, root)
    try:
        scores = list(function(list(outputs), list(targets)))
    except Exception as error:  # the user's own code: whatever it raises is reported, not hidden
        raise PoolError(
            f"metric {metric} raised {type(error).__name__}: {error}"
            f"{_culprit(function, outputs, targets)}",
            code="MG301",
            expert=expert,
            fix="it takes (outputs, targets) and returns one number in [0, 1] per example",
        ) from error
    if len(scores) != len(outputs):
        raise PoolError(
            f"metric {metric} returned {len(scores)} scores for {len(outputs)} examples",
            code="MG301",
            expert=expert,
            fix="return one number in [0, 1] per example",
        )
    return np.array([_checked(s, k, metric, expert) for k, s in enumerate(scores)])


def _checked(value: Any, index: int, metric: str, expert: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise PoolError(
            f"metric {metric} scored example {index + 1} as {value!r}",
            code="MG301",
            expert=expert,
            fix="scores are numbers between 0 and 1",
        )
    return number


def _culprit(function: Callable[..., Any], outputs: Sequence[str], targets: Sequence[str]) -> str:
    """Name the first example on which ``function`` raises by itself."""
    for index, (output, target) in enumerate(zip(outputs, targets, strict=True)):
        try:
            list(function([output], [target]))
        except Exception:
            return f" (example {index + 1}: output {output!r}, target {target!r})"
    return ""


def _load(metric: str, expert: str, root: Path) -> Callable[..., Any]:
    module_name, _, name = metric.partition(":")
    try:
        with _importable_from(root):
            function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise PoolError(
            f"metric {metric} cannot be imported ({error})",
            code="MG301",
            expert=expert,
            fix="write package.module:function; modules beside the gate file are found too",
        ) from None
    if not callable(function):
        raise PoolError(f"metric {metric} is not callable", code="MG301", expert=expert)
    return function  # type: ignore[no-any-return]  # checked to be callable, that is all


@contextmanager
def _importable_from(root: Path) -> Iterator[None]:
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
