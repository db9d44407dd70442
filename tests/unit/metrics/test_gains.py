"""The gain kept and its interval, against betting on every g by plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.metrics import Undefined, betting, gain_kept, gain_kept_interval

from .strategies import generators, quick


@pytest.mark.parametrize(
    ("merged", "kept"), [(0.9, 1.0), (0.2, 0.0), (0.55, 0.5), (0.0, -0.2 / 0.7), (1.0, 0.8 / 0.7)]
)
def test_gain(merged, kept):
    assert gain_kept(merged, 0.9, 0.2) == pytest.approx(kept, abs=1e-12)


def test_of_sums_of_hits_is_exact():
    """Seven of ten that the expert adds are .7, neither more nor less."""
    for added in range(1, 200):
        for kept in range(added + 1):
            assert gain_kept(13 + kept, 13 + added, 13) == kept / added


@pytest.mark.parametrize(("expert", "base"), [(0.5, 0.5), (0.4, 0.5), (0.1 + 0.2, 0.3), (0.0, 0.0)])
def test_an_expert_that_adds_nothing_keeps_none(expert, base):
    with pytest.raises(Undefined) as caught:
        gain_kept(0.5, expert, base)
    assert caught.value.reason == "expert_gains_nothing"
    with pytest.raises(Undefined) as caught:
        gain_kept_interval(np.full(100, 0.5), np.full(100, expert), np.full(100, base))
    assert caught.value.reason == "expert_gains_nothing"


def test_a_gain_that_few_examples_show_is_not_clear():
    merged, expert, base = np.full(3, 0.8), np.ones(3), np.zeros(3)
    assert gain_kept(merged.sum(), expert.sum(), base.sum()) == pytest.approx(0.8)
    with pytest.raises(Undefined, match="3 examples") as caught:
        gain_kept_interval(merged, expert, base)
    assert caught.value.reason == "expert_gain_unclear"
    assert gain_kept_interval(*(np.tile(scores, 10) for scores in (merged, expert, base)))


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (([], [], []), {}, "empty"),
        (([1.0], [1.0], [0.0, 0.0]), {}, "same examples, got 1 and 1 and 2"),
        (([1.5], [1.0], [0.0]), {}, r"merged_scores must lie in \[0, 1\]"),
        (([1.0], [1.0], [-0.1]), {}, r"base_scores must lie in \[0, 1\]"),
        (([1.0], [1.0], [0.0]), {"confidence": 1.0}, "confidence"),
        (([math.nan], [1.0], [0.0]), {}, "finite"),
    ],
)
def test_interval_refuses(scores, options, message):
    with pytest.raises(ValueError, match=message):
        gain_kept_interval(*scores, **options)


def drawn(rng):
    """Scores of a merge, an expert and a base: noise, 0 and 1, one or the other, outliers."""
    n, kind = int(rng.integers(5, 80)), int(rng.integers(4))
    if kind == 0:
        base, expert, merged = rng.random((3, n)) * [[0.5], [1.0], [1.0]]
    elif kind == 1:
        base, expert, merged = rng.random((3, n)) < np.array([[0.2], [0.8], [rng.random()]])
    elif kind == 2:
        base, expert = rng.beta(1, 5, n), rng.beta(5, 1, n)
        merged = np.where(rng.random(n) < rng.random(), expert, base)
    else:
        base, expert = np.zeros(n), np.where(rng.random(n) < 0.9, 1 / 8, 1.0)
        merged = np.where(rng.random(n) < 0.9, expert, 1 - expert)
    return (np.asarray(scores, dtype=float) for scores in (merged, expert, base))


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


@given(generators, st.sampled_from([0.5, 0.9, 0.95]))
@quick
def test_ends_are_where_bets_on_a_gain_have_not_won(rng, confidence):
    """Beyond either end one side's bets have won, as far as one can see; within they have not."""
    merged, expert, base = drawn(rng)
    bar = 2 / (1 - confidence)
    if naive_capital(expert - base, 1.0) < bar or expert.sum() <= base.sum():
        with pytest.raises(Undefined):
            gain_kept_interval(merged, expert, base, confidence=confidence)
        return
    low, high = gain_kept_interval(merged, expert, base, confidence=confidence)
    assert low <= gain_kept(merged.sum(), expert.sum(), base.sum()) <= high

    def won(gain, sign):
        scores = (1 - gain) * base + gain * expert - merged
        return naive_capital(sign * scores, max(1.0, gain, 1 - gain)) / bar

    for steps in (1e-6, 0.01, 0.1, 0.5, 1, 3, 30, 1e5):
        assert won(low - steps, -1) >= 1 - 1e-9
        assert won(high + steps, +1) >= 1 - 1e-9
    inside = (high - low) * 1e-6
    assert won(low + inside, -1) < 1
    assert won(high - inside, +1) < 1


def test_nothing_is_passed_over_that_has_not_won():
    """A made-up path on which the capital falls below the goal and rises again: it ends before."""
    from pytest_mergegate.metrics import gains

    path = [np.array([v]) for v in (0.9, 0.9, 0.9, -0.9)]
    enough, counts = math.log(40), np.array([30.0])
    assert gains._won_up_to(path, counts, enough) > 2
    path[1] = np.array([0.001])
    ended = gains._won_up_to(path, counts, enough)
    assert 0 < ended < 1
    place = (1 - ended) * path[0] + ended * path[1]
    assert betting.log_capital(place, counts, 1.0) == pytest.approx(enough, abs=1e-6)


def test_interval_does_not_depend_on_the_order_and_widens_with_confidence(seed):
    rng = np.random.default_rng(seed)
    base, expert = rng.beta(1, 5, 60), rng.beta(5, 1, 60)
    merged, order = (base + expert) / 2, rng.permutation(60)
    first = gain_kept_interval(merged, expert, base)
    assert gain_kept_interval(merged[order], expert[order], base[order]) == first
    low, high = gain_kept_interval(merged, expert, base, confidence=0.5)
    assert first[0] < low <= 0.5 <= high < first[1]


def test_it_narrows_about_the_truth(seed):
    rng = np.random.default_rng(seed)
    base, expert = rng.beta(1, 5, 5000), rng.beta(5, 1, 5000)
    merged = np.where(rng.random(5000) < 0.7, expert, base)
    low, high = gain_kept_interval(merged, expert, base, confidence=0.999)
    assert 0.6 < low < 0.7 < high < 0.8


@pytest.mark.parametrize("factor", [-1.0, 3.0])
def test_a_merge_beyond_base_or_expert_is_found(factor):
    """One that undoes what the base knew, and one that adds more than the expert did."""
    expert, base = np.full(200, 0.5), np.full(200, 0.3)
    merged = base + factor * (expert - base)
    low, high = gain_kept_interval(merged, expert, base)
    assert low < factor < high
    assert high < 0 if factor < 0 else low > 1
