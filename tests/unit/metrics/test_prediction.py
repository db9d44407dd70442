import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from pytest_mergegate.metrics import Undefined, miss_controlled_threshold, paper_loss_model

from .strategies import generators, quick


def test_point_lies_on_the_line_inside_its_interval():
    prediction = paper_loss_model(2.0)
    assert prediction.loss == pytest.approx(13.69 - 11.39 * 2)
    assert prediction.low < prediction.loss < prediction.high
    assert prediction.loss - prediction.low == pytest.approx(prediction.high - prediction.loss)


def test_interval_is_about_25_percent_and_wider_far_from_the_data():
    def width(mds, **options):
        prediction = paper_loss_model(mds, **options)
        return prediction.high - prediction.loss

    assert width(2.28) == pytest.approx(25, abs=1)
    assert width(6.0) > width(2.28)
    assert width(2.28, confidence=0.5) < width(2.28) < width(2.28, confidence=0.99)


@pytest.mark.parametrize("mds", [1.0, 2.2825, 4.5])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_interval_is_the_regressions(mds, confidence):
    """Of 32 rows whose MDS have a mean of 2.2825 and squares about it of 63.84 (THEORY 7)."""
    leverage = 1 / 32 + (mds - 2.2825) ** 2 / 63.84
    half = float(t.ppf((1 + confidence) / 2, 30)) * 14.1 * math.sqrt(1 + leverage)
    prediction = paper_loss_model(mds, confidence=confidence)
    loss = 13.69 - 11.39 * mds
    found = (prediction.low, prediction.loss, prediction.high)
    assert found == pytest.approx([max(-100.0, end) for end in (loss - half, loss, loss + half)])


def test_no_loss_below_minus_100():
    near = paper_loss_model(8.0)
    assert near.low == -100
    assert near.loss == pytest.approx(13.69 - 11.39 * 8)
    far = paper_loss_model(1e6)
    assert far.low == far.loss == -100


def test_loss_model_refuses():
    with pytest.raises(Undefined) as caught:
        paper_loss_model(math.inf)
    assert caught.value.reason == "infinite_mds"
    for bad in (0.99, -1.0, math.nan, -math.inf):
        with pytest.raises(ValueError, match="mds"):
            paper_loss_model(bad)
    with pytest.raises(ValueError, match="confidence"):
        paper_loss_model(2.0, confidence=1.5)


@given(generators, st.integers(1, 400), st.integers(1, 99))
@quick
def test_threshold_is_the_mth_smallest_in_exact_arithmetic(rng, collapses, percent):
    scores = rng.normal(size=collapses)
    rank = math.floor(Fraction(percent, 100) * (collapses + 1))
    if rank == 0:
        with pytest.raises(Undefined) as caught:
            miss_controlled_threshold(scores, percent / 100)
        needed = math.ceil(Fraction(100, percent)) - 1
        assert caught.value.reason == "needs_more_collapses"
        assert f"needs k ≥ {needed} collapses" in str(caught.value)
        assert collapses < needed
    else:
        assert miss_controlled_threshold(scores, percent / 100) == sorted(scores)[rank - 1]


@given(st.integers(2, 200))
@quick
def test_rates_of_one_in_n_need_exactly_n_minus_one_collapses(n):
    scores = np.arange(n - 1.0)
    assert miss_controlled_threshold(scores, 1 / n) == 0
    with pytest.raises(Undefined, match=f"needs k ≥ {n - 1} "):
        miss_controlled_threshold(scores[1:], 1 / n)


def test_misses_are_controlled():
    rng = np.random.default_rng(0)
    missed = [
        rng.normal() < miss_controlled_threshold(rng.normal(size=29), 0.1) for _ in range(4000)
    ]
    # m = 3 of 30 places: exactly 10%; the mean of 4000 draws has an SD of 0.5%.
    assert np.mean(missed) == pytest.approx(0.1, abs=0.02)


def test_infinite_scores_are_the_riskiest():
    assert miss_controlled_threshold([math.inf, 2.0, 3.0], 0.25) == 2.0
    assert miss_controlled_threshold([math.inf], 0.5) == math.inf


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        ([1.0, math.nan], 0.5, "NaN"),
        ([-math.inf], 0.5, "minus infinity"),
        ([[1.0]], 0.5, "vector"),
        ([1.0], 0.0, "miss_rate"),
        ([1.0], 1.0, "miss_rate"),
        ([1.0], math.nan, "miss_rate"),
    ],
)
def test_threshold_refuses(scores, rate, message):
    with pytest.raises(ValueError, match=message):
        miss_controlled_threshold(scores, rate)


def test_no_recorded_collapse_certifies_nothing():
    with pytest.raises(Undefined, match="needs k ≥ 9 collapses"):
        miss_controlled_threshold([], 0.1)


@given(st.floats(1e-9, 1 - 1e-9))
@quick
def test_enough_collapses_are_enough(rate):
    try:
        miss_controlled_threshold([1.0], rate)
    except Undefined as undefined:
        needed = int(str(undefined).split("≥ ")[1].split()[0])
        if needed <= 10_000:
            assert miss_controlled_threshold(np.zeros(needed), rate) == 0
            with pytest.raises(Undefined):
                miss_controlled_threshold(np.zeros(needed - 1), rate)


def test_a_pool_counts_once_by_its_lowest_collapse():
    scores, pools = [0.9, 0.2, 0.5, 0.4, 0.8], ["a", "a", "b", "c", "c"]
    assert miss_controlled_threshold(scores, 0.5, pools=pools) == 0.4  # of 0.2, 0.4 and 0.5
    assert miss_controlled_threshold(scores, 0.25, pools=pools) == 0.2
    with pytest.raises(Undefined, match="3 recorded in different pools"):
        miss_controlled_threshold(scores, 0.1, pools=pools)
    with pytest.raises(ValueError, match="one entry per score"):
        miss_controlled_threshold(scores, 0.5, pools=pools[1:])


@pytest.mark.parametrize("members", [1, 3, 9])
def test_collapses_that_come_together_are_missed_no_more_often(members):
    """A pool's collapses share most of what their scores are. Taken one by one, nine of 29 pools
    each had 31 % of them missed at a promise of 10 %."""
    rng = np.random.default_rng(members)
    missed = 0.0
    for _ in range(1500):
        shared = rng.normal(size=(30, 1))
        scores = shared + 0.3 * rng.normal(size=(30, members))
        pools = np.repeat(np.arange(29), members).tolist()
        threshold = miss_controlled_threshold(scores[:29].ravel(), 0.1, pools=pools)
        missed += float((scores[29] < threshold).mean())
    assert missed / 1500 <= 0.1 + 3 * (0.1 * 0.9 / 1500) ** 0.5
