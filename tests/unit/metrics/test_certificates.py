import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from pytest_mergegate.metrics import (
    Undefined,
    certified_loss,
    disagreement_bound,
    disagreement_interval,
)

from .strategies import quick

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
levels = st.sampled_from([0.5, 0.9, 0.95, 0.999])


@given(counts, levels)
@quick
def test_bound_is_where_so_few_disagreements_become_unlikely(case, confidence):
    disagreements, n = case
    bound = disagreement_bound(disagreements, n, confidence=confidence)
    if disagreements == n:
        assert bound == 1
    else:
        assert binom.cdf(disagreements, n, bound) == pytest.approx(1 - confidence, rel=1e-6)


@given(counts, levels)
@quick
def test_interval_agrees_with_scipy(case, confidence):
    disagreements, n = case
    expected = binomtest(disagreements, n).proportion_ci(confidence, method="exact")
    low, high = disagreement_interval(disagreements, n, confidence=confidence)
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)
    assert low <= disagreements / n <= high


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_bound_covers_as_promised(rate):
    n = 40
    covered = sum(binom.pmf(d, n, rate) for d in range(n + 1) if disagreement_bound(d, n) >= rate)
    assert covered >= 0.95


def test_more_inputs_promise_more_and_disagreements_less():
    bounds = [disagreement_bound(0, n) for n in (1, 8, 64, 512)]
    assert bounds == sorted(bounds, reverse=True)
    assert [disagreement_bound(d, 64) for d in range(65)] == sorted(
        disagreement_bound(d, 64) for d in range(65)
    )


@pytest.mark.parametrize(
    ("disagreements", "n", "options", "message"),
    [
        (-1, 4, {}, "disagreements"),
        (0, -1, {}, "n must"),
        (5, 4, {}, "5 disagreements in 4"),
        (1.0, 4, {}, "whole"),
        (True, 4, {}, "whole"),
        (0, 4, {"confidence": 1.0}, "confidence"),
        (0, 4, {"confidence": 95}, "confidence"),
    ],
)
@pytest.mark.parametrize("function", [disagreement_bound, disagreement_interval])
def test_refuses(function, disagreements, n, options, message):
    with pytest.raises(ValueError, match=message):
        function(disagreements, n, **options)


@pytest.mark.parametrize("function", [disagreement_bound, disagreement_interval])
def test_nothing_compared_promises_nothing(function):
    with pytest.raises(Undefined) as caught:
        function(0, 0)
    assert caught.value.reason == "no_examples"


@pytest.mark.parametrize(
    ("upper", "score", "loss"),
    [(0.05, 1.0, -5), (0.05, 0.5, -10), (0.6, 0.5, -100), (1.0, 1.0, -100), (0.0, 0.3, 0)],
)
def test_certified_loss(upper, score, loss):
    assert certified_loss(upper, score) == pytest.approx(loss)


def test_no_loss_is_not_minus_zero():
    assert math.copysign(1, certified_loss(0.0, 1.0)) == 1


def test_certified_loss_refuses():
    with pytest.raises(Undefined) as caught:
        certified_loss(0.1, 0.0)
    assert caught.value.reason == "expert_score_zero"
    for upper, score in (
        (-0.1, 1),
        (1.1, 1),
        (0.1, 97.0),
        (0.1, -1),
        (math.nan, 1),
        (0.1, math.nan),
    ):
        with pytest.raises(ValueError, match=r"disagreement_upper|expert_score"):
            certified_loss(upper, score)
