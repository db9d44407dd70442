"""Scores from code that is not ours: asked for, checked, and the example at fault named."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mergegate.common.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A metric of the user's own, and the examples that it is asked to score."""

    metric: str
    expert: str
    count: int
    """How many examples there are."""
    ask: Callable[[Sequence[int]], Any]
    """The metric's scores of the examples with these indices."""
    shown: Callable[[int], str]
    """What the metric gets of one example, for messages."""
    usage: str
    """How such a metric is written."""


def checked_scores(questions: Questions) -> NDArray[np.float64]:
    """One score in [0, 1] per example [n]. Raises PoolError naming the example at fault."""
    q = questions
    try:
        scores = list(q.ask(range(q.count)))
    except (KeyboardInterrupt, PoolError):
        raise
    except BaseException as error:  # sys.exit and pytest.skip must not end or skip the gate
        raise PoolError(
            f"metric {q.metric} raised {type(error).__name__}: {error}{_culprit(q)}",
            code="MG301",
            expert=q.expert,
            fix=q.usage,
        ) from error
    if len(scores) != q.count:
        raise PoolError(
            f"metric {q.metric} returned {len(scores)} scores for {q.count} examples{_culprit(q)}",
            code="MG301",
            expert=q.expert,
            fix="return one number in [0, 1] per example",
        )
    return np.array([_checked(score, k, q) for k, score in enumerate(scores)])


def _checked(value: Any, index: int, questions: Questions) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= 1:
        raise PoolError(
            f"metric {questions.metric} scored example {index + 1} as {repr(value)[:40]}",
            code="MG301",
            expert=questions.expert,
            fix="scores are numbers between 0 and 1",
        )
    return number


def _culprit(questions: Questions) -> str:
    """Name the first example that by itself gives no score either."""
    for index in range(questions.count):
        try:
            scored = len(list(questions.ask([index]))) == 1
        except (KeyboardInterrupt, PoolError):
            raise
        except BaseException:
            scored = False
        if not scored:
            return f" (example {index + 1}: {questions.shown(index)})"
    return ""
