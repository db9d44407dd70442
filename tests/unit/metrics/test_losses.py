import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.metrics import (
    Undefined,
    disagreement_bound,
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
    if expert == 0:
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


def naive_capital(gains, most):
    """What is left of 1 after every example, by every stake of the mixture, by loops."""
    shares = [1 / (k + 4) ** 1.5 for k in range(32)]
    total = 0.0
    for k, share in enumerate(shares):
        capital = share / sum(shares)
        for gain in gains:
            capital *= max(0.0, 1 + 2 ** (-k / 2) * gain / most)
        total += capital
    return total


def test_graded_ends_are_where_the_capital_reaches_the_bar(seed):
    """At either end a gambler has 40 times its money, and less anywhere between them."""
    rng = np.random.default_rng(seed)
    expert = rng.uniform(0.2, 1, size=50)
    merged = expert * rng.uniform(0.2, 1.1, size=50).clip(max=1 / expert)
    low, high = (1 + end / 100 for end in merging_loss_interval(merged, expert))
    assert naive_capital(merged - low * expert, low) == pytest.approx(40, rel=1e-6)
    assert naive_capital(high * expert - merged, 1.0) == pytest.approx(40, rel=1e-6)
    for ratio in np.linspace(low, high, 7)[1:-1]:
        assert naive_capital(merged - ratio * expert, ratio) < 40
        assert naive_capital(ratio * expert - merged, 1.0) < 40
    point = merging_loss(merged.mean(), expert.mean()) / 100 + 1
    assert low < point < high


def test_the_bad_end_of_right_and_wrong_counts_what_was_lost(seed):
    """Clopper-Pearson on what the expert had right, whatever was gained elsewhere."""
    rng = np.random.default_rng(seed)
    expert, merged = rng.integers(0, 2, (2, 80)).astype(float)
    right = int(expert.sum())
    lost = int((expert * (1 - merged)).sum())
    low, high = merging_loss_interval(merged, expert)
    assert low == pytest.approx(-100 * disagreement_bound(lost, right, confidence=0.975))
    assert low < merging_loss(merged.sum(), expert.sum()) < high
    graded_low, graded_high = merging_loss_interval(merged, expert, binary=False)
    assert graded_high == high
    assert graded_low != low


def test_no_change_is_no_certainty():
    """Scores that all stay leave open what the next example does (the bootstrap said [0, 0])."""
    for n in (1, 30, 64, 200):
        low, high = merging_loss_interval(np.ones(n), np.ones(n))
        assert low == pytest.approx(-100 * disagreement_bound(0, n, confidence=0.975))
        assert high > 0
        low, high = merging_loss_interval(np.full(n, 0.5), np.full(n, 0.5))
        assert low < 0 < high


def test_interval_does_not_depend_on_the_order_and_widens_with_confidence(seed):
    rng = np.random.default_rng(seed)
    expert, merged = rng.random((2, 60))
    order = rng.permutation(60)
    first = merging_loss_interval(merged, expert)
    assert merging_loss_interval(merged[order], expert[order]) == first
    low, high = merging_loss_interval(merged, expert, confidence=0.5)
    assert first[0] < low <= high < first[1]


def test_blocks_change_nothing(monkeypatch, seed):
    expert, merged = np.random.default_rng(seed).random((2, 50))
    whole = merging_loss_interval(merged, expert)
    monkeypatch.setattr("pytest_mergegate.metrics.betting._BLOCK", 7)
    assert merging_loss_interval(merged, expert) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("kind", ["0/1", "0/1 with gains", "graded"])
@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize("loss", [0.02, 0.12])
def test_the_bad_end_misses_as_seldom_as_it_says(kind, n, loss):
    """400 draws; at most 2.5 % may miss, and a test that fails by chance once in 10,000 runs."""
    rng = np.random.default_rng([n, int(100 * loss), len(kind)])
    missed = 0
    for _ in range(400):
        if kind == "graded":
            expert = rng.beta(4, 2, n)
            merged = np.where(rng.random(n) < loss * 1.25, expert * 0.2, expert)
        else:
            gained = 0.1 if kind == "0/1 with gains" else 0.0
            expert = (rng.random(n) < 0.8).astype(float)
            kept = np.where(expert == 1, 1 - loss - gained, gained * 0.8 / 0.2)
            merged = (rng.random(n) < kept).astype(float)
        low, _ = merging_loss_interval(merged, expert, binary=kind != "graded")
        missed += low > -100 * loss + 1e-9
    assert missed <= 23


def hedged_width(differences):
    """Width of the hedged capital interval of a mean in [-1, 1] (Waudby-Smith & Ramdas 2020, with
    their bets), by a grid of 1,000 means."""
    scores, n = (differences + 1) / 2, len(differences)
    times = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(scores)) / (times + 1)
    spread = (0.25 + np.cumsum((scores - means) ** 2)) / (times + 1)
    before = np.append(0.25, spread[:-1])
    bets = np.sqrt(2 * np.log(40) / (times * np.log1p(times) * before))
    grid = np.linspace(0, 1, 1001)[1:-1, None]
    up = np.cumprod(1 + np.minimum(bets, 0.5 / grid) * (scores - grid), axis=1)
    down = np.cumprod(1 - np.minimum(bets, 0.5 / (1 - grid)) * (scores - grid), axis=1)
    held = grid[np.maximum(up, down).max(axis=1) < 40]
    return 2 * float(held.max() - held.min())


@pytest.mark.parametrize("n", [30, 64, 100, 200])
@pytest.mark.parametrize("loss", [0.01, 0.05, 0.12, 0.3])
def test_graded_intervals_are_no_wider_than_a_reference(n, loss, seed):
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(8):
        expert = rng.beta(2, 4, n)
        changed = np.clip(expert + rng.normal(0, 0.1, n), 0, 1)
        merged = np.where(rng.random(n) < 1 - loss * 1.2, changed, expert * 0.2)
        low, high = merging_loss_interval(merged, expert)
        width = hedged_width(merged - expert) / expert.mean() * 100
        ratios.append((high - low) / width)
    assert np.mean(ratios) <= 1.25


@pytest.mark.parametrize(
    ("merged", "expert", "options", "message"),
    [
        ([], [], {}, "empty"),
        ([1.0], [1.0, 1.0], {}, "same examples"),
        ([[1.0]], [[1.0]], {}, "dimension"),
        ([1.0], [1.0], {"confidence": 1.0}, "confidence"),
        ([1.0], [1.0], {"confidence": math.nan}, "confidence"),
        ([1.5], [1.0], {}, r"merged_scores must lie in \[0, 1\]"),
        ([1.0], [-0.5], {}, r"expert_scores must lie in \[0, 1\]"),
        ([0.5], [1.0], {"binary": True}, "binary"),
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
