"""Orders within one merge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from pytest_mergegate.metrics import Undefined
from pytest_mergegate.metrics.orders import spearman, worst_hit


def test_worst_hit() -> None:
    found = worst_hit([0.1, 0.9, 0.2, 0.3], [-1, -50, -2, -3])
    assert (found.hit, found.chance) == (1, 0.25)
    assert worst_hit([0.9, 0.1], [-1, -50]).hit == 0
    assert worst_hit([math.inf, 3, 2], [-9, -1, 0]).hit == 1


def test_ties_count_as_what_drawing_among_them_would_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, losses = rng.integers(0, 3, 8), -rng.integers(0, 3, 8)
    losses[:2] = [0, -1]  # not all alike
    named, worst = np.flatnonzero(scores == scores.max()), losses == losses.min()
    drawn = np.mean([worst[rng.choice(named)] for _ in range(4000)])
    assert worst_hit(scores, losses).hit == pytest.approx(drawn, abs=0.03)
    assert worst_hit(np.ones(8), losses).hit == worst_hit(np.ones(8), losses).chance


def test_spearman_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for values in (4, 10**6):
        a, b = rng.integers(0, values, 12), rng.integers(0, values, 12)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman([math.inf, 1, 2], [3, 1, 2]) == pytest.approx(1)


def test_without_an_order_there_is_no_answer() -> None:
    with pytest.raises(Undefined) as caught:
        worst_hit([1, 2], [-5, -5])
    assert caught.value.reason == "no_worst_task"
    for scores, losses in (([1, 1], [1, 2]), ([1, 2], [1, 1])):
        with pytest.raises(Undefined) as caught:
            spearman(scores, losses)
        assert caught.value.reason == "no_order"
    for scores, losses in (([1.0, math.nan], [1, 2]), ([1, 2], [1, 2, 3]), ([1], [1])):
        with pytest.raises(ValueError, match="must"):
            spearman(scores, losses)
