"""Whether a score names the expert that lost most."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from pytest_mergegate.metrics import Undefined

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from card.ranks import worst_hit


def test_worst_hit() -> None:
    found = worst_hit(np.array([0.1, 0.9, 0.2, 0.3]), np.array([-1, -50, -2, -3]))
    assert (found.hit, found.chance) == (1, 0.25)
    assert worst_hit(np.array([0.9, 0.1]), np.array([-1, -50])).hit == 0
    assert worst_hit(np.array([math.inf, 3, 2]), np.array([-9, -1, 0])).hit == 1


def test_ties_count_as_what_drawing_among_them_would_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, losses = rng.integers(0, 3, 8), -rng.integers(0, 3, 8)
    losses[:2] = [0, -1]  # not all alike
    named, worst = np.flatnonzero(scores == scores.max()), losses == losses.min()
    drawn = np.mean([worst[rng.choice(named)] for _ in range(4000)])
    assert worst_hit(scores, losses).hit == pytest.approx(drawn, abs=0.03)
    assert worst_hit(np.ones(8), losses).hit == worst_hit(np.ones(8), losses).chance


def test_no_worst_of_equal_losses() -> None:
    with pytest.raises(Undefined) as caught:
        worst_hit(np.array([1, 2]), np.array([-5, -5]))
    assert caught.value.reason == "no_worst_task"
