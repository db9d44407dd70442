import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.metrics import (
    Undefined,
    majority_rate,
    merging_loss,
    merging_loss_interval,
    pool_losses,
    retention,
)

from .strategies import quick

scores = st.floats(0.01, 100)


@pytest.mark.parametrize(
    ("merged", "expert", "loss"),
    [(0.45, 0.9, -50), (0.9, 0.9, 0), (0.0, 0.9, -100), (0.99, 0.9, 10), (-0.9, 0.9, -200)],
)
def test_loss(merged, expert, loss):
    assert merging_loss(merged, expert) == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize("total", [3, 7, 30, 100, 1000])
def test_of_sums_of_hits_is_exact(total: int) -> None:
    """A loss of just the limit is within it."""
    for lost in range(total + 1):
        assert -merging_loss(total - lost, total) == 100 * lost / total


@quick
@given(scores, scores, st.floats(0.1, 10))
def test_loss_has_no_unit(merged, expert, unit):
    assert merging_loss(unit * merged, unit * expert) == pytest.approx(
        merging_loss(merged, expert), abs=1e-9, rel=1e-9
    )


@pytest.mark.parametrize(
    ("expert", "reason"), [(0.0, "expert_score_zero"), (-0.1, "expert_score_negative")]
)
def test_loss_needs_a_positive_expert_score(expert, reason):
    with pytest.raises(Undefined) as caught:
        merging_loss(0.0, expert)
    assert caught.value.reason == reason
    with pytest.raises(Undefined) as caught:
        merging_loss_interval([0.0, 0.0], [expert, expert])
    assert caught.value.reason == reason


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_must_be_finite(bad):
    for call in (
        lambda: merging_loss(bad, 1.0),
        lambda: merging_loss(1.0, bad),
        lambda: retention(bad, 1.0, 0.0),
        lambda: retention(1.0, bad, 0.0),
        lambda: retention(1.0, 1.0, bad),
        lambda: pool_losses([0.0, bad]),
        lambda: merging_loss_interval([bad, 1], [1, 1]),
    ):
        with pytest.raises(ValueError, match="finite"):
            call()


def naive_interval(merged, expert, resamples, seed):
    """Percentile bootstrap by loops, on draws of its own."""
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(resamples):
        index = [int(i) for i in rng.integers(0, len(merged), len(merged))]
        top, bottom = sum(merged[i] for i in index), sum(expert[i] for i in index)
        losses.append((top / bottom - 1) * 100)
    return np.quantile(losses, [0.025, 0.975])


def test_interval_agrees_with_loops_over_other_draws():
    rng = np.random.default_rng(0)
    expert = rng.uniform(0.5, 1, size=80)
    merged = expert * rng.uniform(0.2, 1.1, size=80)
    low, high = merging_loss_interval(merged, expert)
    assert low < merging_loss(merged.mean(), expert.mean()) < high
    naive_low, naive_high = naive_interval(merged, expert, 2000, seed=1)
    width = naive_high - naive_low
    assert low == pytest.approx(naive_low, abs=0.1 * width)
    assert high == pytest.approx(naive_high, abs=0.1 * width)


def test_interval_is_paired():
    # A merge that scores exactly half on every example has no sampling noise at all.
    expert = np.random.default_rng(0).uniform(0.1, 1, size=50)
    low, high = merging_loss_interval(expert / 2, expert)
    assert (low, high) == (pytest.approx(-50), pytest.approx(-50))
    assert merging_loss_interval(expert, expert) == (0.0, 0.0)


def test_interval_is_reproducible_and_widens_with_confidence():
    rng = np.random.default_rng(1)
    merged, expert = rng.integers(0, 2, 60), np.ones(60)
    first = merging_loss_interval(merged, expert, seed=3)
    assert merging_loss_interval(merged, expert, seed=3) == first
    assert merging_loss_interval(merged, expert, seed=4) != first
    low, high = merging_loss_interval(merged, expert, seed=3, confidence=0.5)
    assert first[0] < low <= high < first[1]


def test_interval_blocks_do_not_change_the_draws_used(monkeypatch):
    rng = np.random.default_rng(2)
    merged, expert = rng.random(30), rng.random(30) + 0.5
    whole = merging_loss_interval(merged, expert, resamples=500)
    monkeypatch.setattr("pytest_mergegate.metrics.losses._BLOCK", 30 * 7)
    assert merging_loss_interval(merged, expert, resamples=500) == pytest.approx(whole)


def test_resamples_without_an_expert_score_widen_both_ends():
    # One example in four carries the expert's score: (3/4)^4 = 32% of the resamples have none.
    low, high = merging_loss_interval([0.5, 0, 0, 0], [1, 0, 0, 0])
    assert low == -100
    assert high == pytest.approx(-50)
    # The lowest loss seen, where scores can be negative.
    low, _ = merging_loss_interval([-1.0, 0, 0, 0], [1, 0, 0, 0])
    assert low == pytest.approx(-200)


def test_interval_of_one_resample_without_an_expert_score():
    ends = {merging_loss_interval([0.5, 0], [1, 0], resamples=1, seed=seed) for seed in range(20)}
    assert (-100.0, -50.0) in ends


@pytest.mark.parametrize(
    ("merged", "expert", "options", "message"),
    [
        ([], [], {}, "empty"),
        ([1.0], [1.0, 1.0], {}, "same examples"),
        ([[1.0]], [[1.0]], {}, "dimension"),
        ([1.0], [1.0], {"confidence": 1.0}, "confidence"),
        ([1.0], [1.0], {"confidence": math.nan}, "confidence"),
        ([1.0], [1.0], {"resamples": 0}, "resamples"),
        ([1.0], [1.0], {"resamples": 2.5}, "resamples"),
        ([1.0], [1.0], {"resamples": True}, "resamples"),
    ],
)
def test_interval_refuses(merged, expert, options, message):
    with pytest.raises(ValueError, match=message):
        merging_loss_interval(merged, expert, **options)


@pytest.mark.parametrize(
    ("merged", "kept"), [(0.9, 1.0), (0.25, 0.0), (0.575, 0.5), (0.0, -0.25 / 0.65)]
)
def test_retention(merged, kept):
    assert retention(merged, 0.9, 0.25) == pytest.approx(kept, abs=1e-12)


@pytest.mark.parametrize(
    ("expert", "chance"), [(0.25, 0.25), (0.2, 0.25), (0.1 + 0.2, 0.3), (0.0, 0.0)]
)
def test_retention_needs_an_expert_above_chance(expert, chance):
    with pytest.raises(Undefined) as caught:
        retention(0.5, expert, chance)
    assert caught.value.reason == "expert_not_above_chance"


def test_majority_rate():
    assert majority_rate(["yes", "no", "yes", "maybe"]) == 0.5
    assert majority_rate(iter([("a", 1)])) == 1.0
    with pytest.raises(ValueError, match="empty"):
        majority_rate([])


def test_pool_losses():
    pool = pool_losses([-10.0, 5.0, -70.0])
    assert (pool.mean, pool.worst) == (-25.0, -70.0)
    with pytest.raises(ValueError, match="empty"):
        pool_losses([])
