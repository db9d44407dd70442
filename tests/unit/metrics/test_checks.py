import numpy as np
import pytest

from pytest_mergegate.metrics._checks import order_statistics


@pytest.mark.parametrize(
    ("confidence", "low", "high"), [(0.95, 2, 98), (0.9, 5, 95), (0.5, 25, 75), (0.999, 0, 100)]
)
def test_order_statistics_are_ranked_outwards_and_symmetric(confidence, low, high):
    values = np.random.default_rng(0).permutation(np.arange(101.0))
    ends = order_statistics(values, confidence)
    assert ends[0] in (low, low - 1)
    assert ends[1] == 100 - ends[0]


def test_order_statistics_of_one_value():
    assert order_statistics(np.array([3.0]), 0.95) == (3.0, 3.0)


def test_order_statistics_work_by_column_and_with_infinities():
    values = np.array([[np.inf, 1.0], [np.inf, 2.0], [0.0, 3.0]])
    low, high = order_statistics(values, 0.95)
    assert low.tolist() == [0.0, 1.0]
    assert high.tolist() == [np.inf, 3.0]
