"""Scores of outputs against one reference or the best of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from naive import rouge_l

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.evaluation.own_metric import OwnMetric
from pytest_mergegate.evaluation.scoring import score_outputs
from pytest_mergegate.pool.examples import Example

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAIVE: dict[str, Callable[[str, str], float]] = {
    "exact_match": lambda output, right: float(output.strip() == right.strip()),
    "accuracy": lambda output, right: float(output == right),
    "rouge_l": rouge_l,
}


def drawn(seed: int, count: int = 200) -> tuple[list[str], list[tuple[str, ...]]]:
    """Outputs and references of a few words from a small vocabulary, so that many are alike."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        blank = str(rng.choice(["", " "]))
        return blank + " ".join(rng.choice(["one", "two", "three"], size=rng.integers(0, 4)))

    outputs = [text() for _ in range(count)]
    return outputs, [tuple(text() for _ in range(rng.integers(1, 5))) for _ in outputs]


@pytest.mark.parametrize("metric", NAIVE)
def test_the_best_reference_counts(metric: str, seed: int) -> None:
    outputs, references = drawn(seed)
    expected = [
        max(NAIVE[metric](output, right) for right in several)
        for output, several in zip(outputs, references, strict=True)
    ]
    assert score_outputs(metric, outputs, references) == pytest.approx(expected)
    assert 0 < np.mean(expected) < 1


@pytest.mark.parametrize("metric", NAIVE)
def test_more_references_never_score_less(metric: str, seed: int) -> None:
    outputs, references = drawn(seed)
    first = score_outputs(metric, outputs, [several[:1] for several in references])
    scores = score_outputs(metric, outputs, references)
    assert (scores >= first).all()
    assert (scores > first).any()


def overlap(outputs: Sequence[str], targets: Sequence[str]) -> list[float]:
    """Of plain strings alone."""
    pairs = list(zip(outputs, targets, strict=True))
    assert all(type(text) is str for pair in pairs for text in pair)
    return [len({*o} & {*t}) / max(1, len({*o} | {*t})) for o, t in pairs]


def own(references: Sequence[str | tuple[str, ...]], numbers: Sequence[int] = ()) -> OwnMetric:
    examples = [Example(input=f"q{k}", target=right) for k, right in enumerate(references)]
    given = numbers or range(1, len(examples) + 1)
    return OwnMetric(metric="m:f", expert="a", examples=examples, numbers=given)


def test_the_best_reference_counts_in_a_metric_of_ones_own(seed: int) -> None:
    outputs, references = drawn(seed)
    expected = [
        max(overlap([output], [right])[0] for right in several)
        for output, several in zip(outputs, references, strict=True)
    ]
    assert own(references).of_outputs(overlap, outputs).tolist() == expected


def test_a_metric_of_ones_own_is_asked_every_pair_twice() -> None:
    asked: list[tuple[list[str], list[str]]] = []

    def metric(outputs: list[str], targets: list[str]) -> list[float]:
        asked.append((outputs, targets))
        return [0.0, 1.0, 0.5, 0.25]

    scores = own([("x", "y"), "z", ("w",)]).of_outputs(metric, ["a", "b", "c"])
    assert scores.tolist() == [1.0, 0.5, 0.25]
    assert asked == [(["a", "a", "b", "c"], ["x", "y", "z", "w"])] * 2


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([0.0, 2.0, 0.5], "scored example 3 as 2.0"),
        ([0.0, 0.5, float("nan")], "scored example 7 as nan"),
        ([0.0, 0.5], "returned 2 scores for 3 pairs of output and reference (example 3: output "),
    ],
)
def test_errors_name_the_line(scores: list[Any], says: str) -> None:
    def metric(outputs: list[str], targets: list[str]) -> list[Any]:
        return scores

    with pytest.raises(PoolError) as caught:
        own([("x", "y"), "z"], [3, 7]).of_outputs(metric, ["a", "b"])
    assert says in caught.value.what


def test_a_metric_that_draws_is_named_with_its_line() -> None:
    calls = iter([[0.0, 0.5, 0.5], [0.0, 0.5, 0.75]])
    with pytest.raises(PoolError, match=r"scored example 7 as 0\.5, and as 0\.75 when asked again"):
        own([("x", "y"), "z"], [3, 7]).of_outputs(lambda o, t: next(calls), ["a", "b"])
