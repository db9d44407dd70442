"""Capital and intervals by betting, against the same in plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.metrics import betting

from .strategies import generators, quick

TAILS = (0.025, 0.025)


def naive_capital(gains, most):
    """Many gamblers, each of whom stakes the same share on every example."""
    total = 0.0
    for share, stake in zip(betting.SHARES, betting.STAKES, strict=True):
        own = float(share)
        for gain in gains:
            own *= max(0.0, 1 + float(stake) * max(gain / most, -1.0))
        total += own
    return math.log(total) if total else -math.inf


@given(generators, st.integers(1, 30), st.sampled_from([0.5, 1.0, 3.0]))
@quick
def test_capital(rng, n, most):
    gains = np.round(rng.uniform(-most, 2, size=n), 1).clip(-most)
    values, counts = np.unique(gains, return_counts=True)
    found = betting.log_capital(values, counts.astype(np.float64), most)
    assert found == pytest.approx(naive_capital(gains, most), rel=1e-9, abs=1e-9)


def test_the_whole_stake_may_be_lost_and_no_more():
    assert betting.log_capital(np.array([-1.0]), np.array([1.0]), 1.0) < 0
    beyond = betting.log_capital(np.array([-1.0 - 1e-12]), np.array([3.0]), 1.0)
    assert beyond == betting.log_capital(np.array([-1.0]), np.array([3.0]), 1.0)


@given(generators, st.integers(2, 40))
@quick
def test_ends_are_where_the_capital_reaches_its_goal(rng, n):
    """Just inside both ends no bet has won enough, just outside one has."""
    above, below = rng.integers(0, 5, size=n) / 4, rng.integers(1, 5, size=n) / 4
    low, high = betting.ratio_bounds(above, below, TAILS)
    goal = math.log(1 / TAILS[0])

    def against_low(ratio):
        return naive_capital(above / ratio - below, 1.0)

    def against_high(ratio):
        return naive_capital(ratio * below - above, 1.0)

    if low > 1e-9:
        assert against_low(low * (1 - 1e-6)) >= goal > against_low(low * (1 + 1e-6))
    if math.isfinite(high):
        assert against_high(high * (1 + 1e-6)) >= goal > against_high(high * (1 - 1e-6))
    assert low <= above.sum() / below.sum() <= high


def test_a_small_ratio_has_its_own_lower_end():
    """Of a thousandth, after many examples."""
    above = np.full(200_000, 0.001)
    low, high = betting.ratio_bounds(above, np.ones(200_000), TAILS)
    assert 0 < low < 0.001 < high < 0.002
