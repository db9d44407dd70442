from functools import partial, reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.metrics import (
    distortion_curve,
    distortion_floor,
    fewest_merges,
    minimum_distortion,
)
from pytest_mergegate.metrics.partitions import (
    _Group,
    _line,
    _union,
    exact_partitions,
    greedy_partitions,
)

from .strategies import generators, points, quick, squared_distances


def partitions(items):
    """Every partition of a list."""
    if not items:
        yield []
        return
    first, *rest = items
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for k, group in enumerate(smaller):
            yield [*smaller[:k], [first, *group], *smaller[k + 1 :]]


def worst_radius(d2, groups):
    return max(minimum_distortion(d2[np.ix_(group, group)]).value for group in groups)


def brute_force(d2):
    best = {}
    for groups in partitions(list(range(len(d2)))):
        worst = worst_radius(d2, [list(group) for group in groups])
        best[len(groups)] = min(worst, best.get(len(groups), np.inf))
    return [best[models] for models in sorted(best)]


@given(generators, st.integers(1, 5), st.integers(1, 4))
@quick
def test_curve_against_every_partition(rng, experts, width):
    d2 = squared_distances(points(rng, experts, width))
    curve = distortion_curve(d2)
    assert [point.models for point in curve] == list(range(1, experts + 1))
    slack = 1e-9 * d2.max()
    np.testing.assert_allclose([p.distortion for p in curve], brute_force(d2), atol=slack)
    assert all(point.exact for point in curve)


def test_curve_of_seven_against_every_partition():
    d2 = squared_distances(np.random.default_rng(3).normal(size=(7, 3)))
    np.testing.assert_allclose(
        [point.distortion for point in distortion_curve(d2)], brute_force(d2), atol=1e-10
    )


@given(generators, st.integers(1, 20), st.integers(1, 4))
@quick
def test_every_curve_is_a_decreasing_list_of_partitions(rng, experts, width):
    d2 = squared_distances(points(rng, experts, width))
    curve = distortion_curve(d2)
    slack = 1e-9 * d2.max()
    assert len(curve) == experts
    for point in curve:
        assert sorted(i for group in point.groups for i in group) == list(range(experts))
        assert len(point.groups) == point.models
        assert list(point.groups) == sorted(tuple(sorted(group)) for group in point.groups)
        assert point.distortion == pytest.approx(worst_radius(d2, point.groups), abs=slack)
        assert point.exact or experts > 12
        assert point.exact == (point.at_least == point.distortion)
    assert all(a.distortion >= b.distortion for a, b in pairwise(curve))
    assert curve[0].distortion == pytest.approx(minimum_distortion(d2).value, abs=slack)
    assert curve[-1].distortion == 0


@given(generators, st.integers(1, 8))
@quick
def test_greedy_is_never_better_than_exact(rng, experts):
    d2 = squared_distances(points(rng, experts, 2))
    exact, greedy = exact_partitions(d2), greedy_partitions(d2)
    for (best, _), (worst, _) in zip(exact, greedy, strict=True):
        assert worst >= best - 1e-9 * d2.max()


@given(generators, st.integers(2, 14))
@quick
def test_greedy_merges_the_pair_with_the_least_radius(rng, experts):
    d2 = squared_distances(rng.normal(size=(experts, 3)))
    groups = [(i,) for i in range(experts)]
    found = greedy_partitions(d2)
    while len(groups) > 1:
        candidates = [
            (worst_radius(d2, [list(a + b)]), a, b)
            for k, a in enumerate(groups)
            for b in groups[k + 1 :]
        ]
        _, a, b = min(candidates)
        groups = sorted([g for g in groups if g not in (a, b)] + [tuple(sorted(a + b))])
        assert found[len(groups) - 1][1] == tuple(groups)


@given(generators, st.integers(1, 16))
@quick
def test_fewest_merges_is_the_first_point_within_the_budget(rng, experts):
    d2 = squared_distances(points(rng, experts, 3))
    curve = distortion_curve(d2)
    budget = float(rng.uniform(0, 1.2)) * curve[0].distortion
    partition = fewest_merges(d2, budget)
    assert partition.worst <= budget + 1e-9 * d2.max()
    assert partition.exact or experts > 12
    fewer = [point for point in curve if point.models < len(partition.groups)]
    assert all(point.distortion > budget for point in fewer)


@given(generators, st.integers(1, 7))
@quick
def test_a_budget_met_exactly_is_met(rng, experts):
    d2 = squared_distances(points(rng, experts, 3))
    for point in distortion_curve(d2):
        assert len(fewest_merges(d2, point.distortion).groups) <= point.models


@pytest.mark.parametrize("experts", range(2, 15))
def test_round_off_does_not_spend_the_budget(experts):
    # R² of a regular simplex comes out an ulp above the same number computed here.
    d2 = 0.7 * (1 - np.eye(experts))
    budget = 0.7 * (experts - 1) / (2 * experts)
    assert len(fewest_merges(d2, budget).groups) == 1
    assert len(fewest_merges(d2, budget * (1 - 1e-9)).groups) > 1


@given(generators, st.integers(1, 6), st.integers(1, 6))
@quick
def test_the_bound_that_greedy_orders_by(rng, first, second):
    d2 = squared_distances(points(rng, first + second, 3))
    singles = [
        _Group(members=(i,), weights=w, squared_radius=0.0) for i, w in enumerate(np.eye(len(d2)))
    ]
    a, b = (
        reduce(partial(_union, d2), singles[:first]),
        reduce(partial(_union, d2), singles[first:]),
    )
    bound, weights = _line(d2, a, b)
    slack = 1e-9 * d2.max()
    assert bound == pytest.approx(0.5 * weights @ d2 @ weights, abs=slack)
    assert weights.sum() == pytest.approx(1)
    assert max(a.squared_radius, b.squared_radius) - slack <= bound
    assert bound <= _union(d2, a, b).squared_radius + slack
    along = [
        0.5 * w @ d2 @ w
        for w in (a.weights + t * (b.weights - a.weights) for t in np.linspace(0, 1, 21))
    ]
    assert max(along) <= bound + slack


def test_permuting_experts_keeps_the_curve():
    rng = np.random.default_rng(0)
    d2 = squared_distances(rng.normal(size=(9, 4)))
    order = rng.permutation(9)
    np.testing.assert_allclose(
        [p.distortion for p in distortion_curve(d2)],
        [p.distortion for p in distortion_curve(d2[np.ix_(order, order)])],
        rtol=1e-9,
    )


@pytest.mark.parametrize("experts", [6, 15])
def test_clusters_are_found(experts):
    centres = np.repeat([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]], experts // 3, axis=0)
    x = centres + np.random.default_rng(1).normal(size=(experts, 2))
    partition = fewest_merges(squared_distances(x), 50.0)
    size = experts // 3
    assert partition.groups == tuple(tuple(range(k, k + size)) for k in (0, size, 2 * size))


@pytest.mark.parametrize("experts", [4, 20])
def test_without_a_budget_only_twins_are_merged(experts):
    x = np.arange(experts, dtype=float)[:, np.newaxis]
    x[1] = x[0]
    partition = fewest_merges(squared_distances(x), 0.0)
    assert partition.groups == ((0, 1), *((i,) for i in range(2, experts)))
    assert partition.worst == 0


def test_the_bound_for_groups_about_one_centre_is_the_wider_group():
    d2 = squared_distances([[-1.0], [1.0], [-2.0], [2.0]])
    pairs = [
        _Group(members=members, weights=np.array(weights), squared_radius=radius)
        for members, weights, radius in (
            ((0, 1), [0.5, 0.5, 0.0, 0.0], 1.0),
            ((2, 3), [0.0, 0.0, 0.5, 0.5], 4.0),
        )
    ]
    assert _line(d2, *pairs)[0] == _line(d2, *pairs[::-1])[0] == 4


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
