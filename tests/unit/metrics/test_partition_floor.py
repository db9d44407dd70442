from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.metrics import distortion_curve, distortion_floor, fewest_merges
from pytest_mergegate.metrics.greedy_partitions import greedy_partitions

from .strategies import generators, points, quick, squared_distances


@given(generators, st.integers(1, 8), st.integers(1, 4))
@quick
def test_no_grouping_is_below_the_floor(rng, experts, width):
    d2 = squared_distances(points(rng, experts, width))
    best = [point.distortion for point in distortion_curve(d2)]
    floor = distortion_floor(d2)
    assert (floor <= np.array(best) + 1e-9 * d2.max()).all()
    assert all(after <= before for before, after in pairwise(floor))
    assert floor[-1] == 0


def test_a_regular_simplex_leaves_no_gap_where_the_groups_are_even():
    # every group of m of N equidistant experts has R² = (m - 1) / 2m
    d2 = 1.0 - np.eye(16)
    np.testing.assert_allclose(
        distortion_floor(d2)[[0, 1, 3, 7, 15]], [15 / 32, 7 / 16, 3 / 8, 0.25, 0]
    )


def test_experts_far_apart_cannot_share():
    d2 = squared_distances(np.array([[0.0], [10.0], [20.0], [20.5]]))
    # of any three experts two are 10 apart, and 100 / 4 = 25
    np.testing.assert_allclose(distortion_floor(d2), [105.0625, 25.0, 0.0625, 0.0])


@pytest.mark.parametrize("experts", [1, 2, 5])
def test_identical_experts_cost_nothing(experts):
    assert not distortion_floor(np.zeros((experts, experts))).any()


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        distortion_floor(np.array([[0.0, np.nan], [np.nan, 0.0]]))


@given(generators, st.integers(13, 20))
@quick
def test_above_twelve_the_curve_says_how_far_off_it_may_be(rng, experts):
    d2 = squared_distances(points(rng, experts, 3))
    for point, (worst, _) in zip(distortion_curve(d2), greedy_partitions(d2), strict=True):
        assert point.at_least <= point.distortion == worst
        assert point.exact == (point.at_least == point.distortion)


@given(generators, st.integers(2, 16))
@quick
def test_fewest_merges_says_how_many_are_needed_at_least(rng, experts):
    d2 = squared_distances(points(rng, experts, 3))
    found = fewest_merges(d2, float(np.median(d2)) / 4)
    assert 1 <= found.at_least <= len(found.groups)
    assert found.exact == (found.at_least == len(found.groups))
