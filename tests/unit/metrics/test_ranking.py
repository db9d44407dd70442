"""AUROC, average precision and rank correlation, against the naive ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from pytest_mergegate.metrics import Undefined
from pytest_mergegate.metrics.ranking import (
    auprc,
    auroc,
    spearman,
)


def naive_auroc(scores: Any, bad: Any, weights: Any) -> float:
    """Pair by pair."""
    won = total = 0.0
    for score, lost, weight in zip(scores, bad, weights, strict=True):
        for other, other_lost, other_weight in zip(scores, bad, weights, strict=True):
            if lost and not other_lost:
                total += weight * other_weight
                won += weight * other_weight * ((score > other) + (score == other) / 2)
    return won / total


def naive_auprc(scores: Any, bad: Any) -> float:
    """The precision of raising all that score at least as high, for each collapsed point."""
    found = []
    for score, lost in zip(scores, bad, strict=True):
        if lost:
            raised = [b for s, b in zip(scores, bad, strict=True) if s >= score]
            found.append(sum(raised) / len(raised))
    return sum(found) / len(found)


@pytest.fixture(params=[3, 10, 10**9], ids=["many ties", "some ties", "no ties"])
def drawn(request: pytest.FixtureRequest, seed: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, request.param, 60) / 7
    bad = np.r_[True, False, rng.random(58) < 0.3]
    return scores, bad, np.r_[1, 1, rng.integers(0, 4, 58)]


def test_auroc_is_the_naive_one(drawn: tuple[Any, Any, Any]) -> None:
    scores, bad, weights = drawn
    assert auroc(scores, bad) == pytest.approx(naive_auroc(scores, bad, np.ones(60)))
    assert auroc(scores, bad, weights) == pytest.approx(naive_auroc(scores, bad, weights))
    repeated = auroc(np.repeat(scores, weights), np.repeat(bad, weights))
    assert auroc(scores, bad, weights) == pytest.approx(repeated)
    won = mannwhitneyu(scores[bad], scores[~bad]).statistic
    assert auroc(scores, bad) == pytest.approx(won / (bad.sum() * (~bad).sum()))


def test_average_precision_is_the_naive_one(drawn: tuple[Any, Any, Any]) -> None:
    scores, bad, weights = drawn
    assert auprc(scores, bad) == pytest.approx(naive_auprc(scores, bad))
    repeated = naive_auprc(np.repeat(scores, weights), np.repeat(bad, weights))
    assert auprc(scores, bad, weights) == pytest.approx(repeated)


def test_auroc_at_its_ends() -> None:
    assert auroc([1, 2, 3], [False, False, True]) == 1
    assert auroc([3, 2, 1], [False, False, True]) == 0
    assert auroc([1, 1, 1], [False, False, True]) == 0.5
    assert auroc([float("inf"), 1], [True, False]) == 1
    assert np.isnan(auroc([1, 2], [True, True]))


def test_average_precision_at_its_ends() -> None:
    assert auprc([1, 2, 3], [False, False, True]) == 1
    assert auprc([3, 2, 1], [False, False, True]) == pytest.approx(1 / 3)
    assert auprc([1, 1, 1, 1], [False, False, True, False]) == 0.25  # the base rate
    assert auprc([float("inf"), 1], [True, False]) == 1
    assert np.isnan(auprc([1, 2], [False, False]))
    assert np.isnan(auprc([], []))


def test_spearman_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for values in (4, 10**6):
        a, b = rng.integers(0, values, 12), rng.integers(0, values, 12)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman([math.inf, 1, 2], [3, 1, 2]) == pytest.approx(1)


def test_without_an_order_there_is_no_answer() -> None:
    for scores, losses in (([1, 1], [1, 2]), ([1, 2], [1, 1])):
        with pytest.raises(Undefined) as caught:
            spearman(scores, losses)
        assert caught.value.reason == "no_order"
    for scores, losses in (([1.0, math.nan], [1, 2]), ([1, 2], [1, 2, 3]), ([1], [1])):
        with pytest.raises(ValueError, match="must"):
            spearman(scores, losses)


@pytest.mark.parametrize("rank", [auroc, auprc])
def test_scores_stand_in_a_row(rank: Any) -> None:
    with pytest.raises(ValueError, match="scores must be a vector"):
        rank([[1.0, 2.0]], [[True, False]])
