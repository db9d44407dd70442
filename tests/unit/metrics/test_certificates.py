import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest

from pytest_mergegate.metrics import (
    Undefined,
    certified_loss,
    disagreement_bound,
    disagreement_interval,
    inputs_needed,
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


@pytest.mark.parametrize(("disagreements", "n"), [(1, 10**8), (3, 10**9), (2, 10**7)])
def test_a_rare_disagreement_has_a_lower_end_of_its_own(disagreements, n):
    """Where 1 less the mirrored bound would have lost its digits."""
    low, _ = disagreement_interval(disagreements, n)
    exact = float(beta.ppf(0.025, disagreements, n - disagreements + 1))
    assert low == pytest.approx(exact, rel=1e-9)


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


@pytest.mark.parametrize("limit", [0.05, 0.1, 0.3, 0.6, 0.97])
def test_inputs_needed_without_a_disagreement(limit):
    """The rule of three, exactly: (1 - limit)^n <= 5 %."""
    needed = inputs_needed(0, 10, limit)
    assert needed == math.ceil(math.log(0.05) / math.log(1 - limit))


@given(
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.floats(0.05, 0.95),
    levels,
)
@quick
def test_inputs_needed_are_the_fewest(case, limit, confidence):
    disagreements, n = case
    if disagreements / n > 0.8 * limit:
        return
    needed = inputs_needed(disagreements, n, limit, confidence=confidence)
    within = [
        disagreement_bound(-(-m * disagreements // n), m, confidence=confidence) <= limit
        for m in range(1, needed + 1)
    ]
    assert within.index(True) + 1 == needed


@pytest.mark.parametrize(("disagreements", "limit"), [(3, 0.3), (4, 0.3), (10, 0.99)])
def test_no_number_of_inputs_helps(disagreements, limit):
    with pytest.raises(Undefined) as caught:
        inputs_needed(disagreements, 10, limit)
    assert caught.value.reason == "rate_not_below_limit"


def test_a_limit_of_one_holds_on_any_input():
    assert inputs_needed(10, 10, 1.0) == 1


@pytest.mark.parametrize("limit", [-0.1, 1.1, math.nan])
def test_inputs_needed_refuses(limit):
    with pytest.raises(ValueError, match="limit"):
        inputs_needed(0, 10, limit)


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
