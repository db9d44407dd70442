import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from pytest_mergegate.metrics import (
    diameter,
    distortion_curve,
    distortions,
    feasibility,
    fewest_merges,
    jung_upper,
    minimum_distortion,
    paper_bound,
    radius_bounds,
    uniform_distortion,
)
from pytest_mergegate.metrics.bounds import enclosing_ball

from .strategies import generators, points, quick, squared_distances

experts_ = st.integers(1, 9)


@given(generators, experts_, st.integers(1, 5))
@quick
def test_distortions_are_mean_squared_distances_to_the_mix(rng, experts, width):
    # Experts as functions on three inputs with probabilities p.
    p = rng.dirichlet(np.ones(3))
    h = rng.normal(size=(experts, 3, width))
    d2 = np.einsum("x,ijxd->ij", p, (h[:, np.newaxis] - h) ** 2)
    weights = rng.normal(size=experts)
    weights += (1 - weights.sum()) / experts
    mix = np.einsum("i,ixd->xd", weights, h)
    expected = np.einsum("x,ixd->i", p, (h - mix) ** 2)
    np.testing.assert_allclose(distortions(d2, weights), expected, rtol=1e-9, atol=1e-9)


@given(generators, experts_, st.integers(1, 5))
@quick
def test_no_model_beats_the_minimum_distortion(rng, experts, width):
    x = points(rng, experts, width)
    d2 = squared_distances(x)
    best = minimum_distortion(d2)
    anywhere = x.mean(axis=0) + rng.normal(size=width) * rng.uniform(0, 2)
    mixes = rng.dirichlet(np.full(experts, 0.5), size=20) @ x
    for model in (*mixes, anywhere):
        worst = ((x - model) ** 2).sum(axis=1).max()
        assert worst >= best.value * (1 - 1e-9)
    reached = distortions(d2, best.weights).max()
    assert best.value <= reached + 1e-12 * d2.max()
    assert reached == pytest.approx(best.value + best.gap, rel=1e-9, abs=1e-12 * d2.max())


@given(generators, experts_, st.integers(1, 5))
@quick
def test_the_chain_of_bounds(rng, experts, width):
    d2 = squared_distances(points(rng, experts, width))
    radius, bounds = minimum_distortion(d2).value, radius_bounds(d2)
    slack = 1e-9 * d2.max()
    assert bounds.lower == pytest.approx(diameter(d2) ** 2 / 4, rel=1e-12)
    assert bounds.lower <= radius + slack or experts == 1
    assert radius <= bounds.upper + slack
    assert jung_upper(d2) == bounds.upper
    uniform = uniform_distortion(d2)
    assert radius <= uniform + slack
    assert uniform <= 4 * (1 - 1 / experts) ** 2 * radius + slack
    assert uniform == distortions(d2, np.full(experts, 1 / experts)).max()


def test_mean_and_diameter_in_numbers():
    d2 = squared_distances([[0.0, 0.0], [3.0, 4.0]])
    assert diameter(d2) == 5
    assert paper_bound(d2, 1) == 25 / 4
    assert paper_bound(d2, 4096) == pytest.approx(25 / 2 * 4096 / 4097)
    assert distortions(d2, [0.5, 0.5]).tolist() == [6.25, 6.25]
    assert distortions(d2, [2.0, -1.0]).tolist() == [25, 100]


def test_feasibility_around_the_radius():
    d2 = squared_distances([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    radius, lower = minimum_distortion(d2).value, radius_bounds(d2).lower
    assert radius == pytest.approx(2 / 3)
    assert feasibility(d2, 0.99 * lower) == "impossible"
    # Between Δ²/4 = 1/2 and R² = 2/3 the diameter alone would not have told.
    assert feasibility(d2, (lower + radius) / 2) == "impossible"
    assert feasibility(d2, radius * (1 - 1e-9)) == "impossible"
    assert feasibility(d2, 2 / 3) == "possible"
    assert feasibility(d2, 1.0) == "possible"


@given(generators, st.integers(1, 8))
@quick
def test_feasibility_at_exactly_the_radius(rng, experts):
    d2 = squared_distances(points(rng, experts, 3))
    assert feasibility(d2, minimum_distortion(d2).value) == "possible"


def test_feasibility_with_a_linearity_gap():
    d2 = squared_distances([[0.0], [2.0]])
    assert feasibility(d2, 1.0) == "possible"
    assert feasibility(d2, 1.0, linearity_gap=0.1) == "undecided"
    assert feasibility(d2, 1.21, linearity_gap=0.1) == "possible"
    assert feasibility(d2, 0.99, linearity_gap=0.1) == "impossible"


def test_distances_in_single_precision_still_pass():
    d2 = squared_distances(np.random.default_rng(0).normal(size=(64, 3)))
    rounded = d2.astype(np.float32).astype(np.float64)
    assert minimum_distortion(rounded).value == pytest.approx(minimum_distortion(d2).value, 1e-5)


BAD = [
    (np.ones((2, 3)), "square"),
    (np.ones((2, 2)), "diagonal"),
    ([[0, -1], [-1, 0]], "negative"),
    ([[0, 1], [2, 0]], "symmetric"),
    ([[0, math.nan], [math.nan, 0]], "NaN"),
    # Squared distances of no points: the triangle inequality of their roots fails.
    ([[0, 1, 100], [1, 0, 1], [100, 1, 0]], "no points"),
]


@pytest.mark.parametrize(("matrix", "message"), BAD)
@pytest.mark.parametrize(
    "function",
    [
        minimum_distortion,
        diameter,
        radius_bounds,
        jung_upper,
        uniform_distortion,
        distortion_curve,
        lambda d2: distortions(d2, np.full(len(d2), 1 / len(d2))),
        lambda d2: paper_bound(d2, 8),
        lambda d2: feasibility(d2, 1.0),
        lambda d2: fewest_merges(d2, 1.0),
    ],
)
def test_refuses_what_are_not_squared_distances(function, matrix, message):
    with pytest.raises(ValueError, match=message):
        function(matrix)


def test_refuses_other_bad_arguments():
    d2 = squared_distances([[0.0], [2.0]])
    for call, message in (
        (lambda: distortions(d2, [1.0]), "length 2"),
        (lambda: distortions(d2, [0.5, 0.4]), "sum to 1"),
        (lambda: distortions(d2, [math.nan, 1.0]), "NaN"),
        (lambda: paper_bound(d2, 0), "dimension"),
        (lambda: paper_bound(d2, 1.5), "whole"),
        (lambda: feasibility(d2, -1.0), "budget"),
        (lambda: feasibility(d2, math.nan), "budget"),
        (lambda: feasibility(d2, 1.0, linearity_gap=-0.1), "linearity_gap"),
        (lambda: fewest_merges(d2, math.nan), "budget"),
        (lambda: fewest_merges(d2, -1.0), "budget"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def slsqp(d2):
    """The same maximum by a general-purpose solver."""
    scale = d2.max()
    scaled = d2 / scale
    result = minimize(
        lambda a: -0.5 * a @ scaled @ a,
        np.full(len(d2), 1 / len(d2)),
        jac=lambda a: -scaled @ a,
        bounds=[(0, 1)] * len(d2),
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return -scale * result.fun


@given(generators, st.integers(2, 12), st.integers(1, 6))
@quick
def test_against_a_general_solver(rng, experts, width):
    d2 = squared_distances(points(rng, experts, width))
    if d2.max() == 0:
        return
    ball = enclosing_ball(d2)
    assert ball.value == pytest.approx(slsqp(d2), rel=1e-6)


@given(generators, st.integers(1, 64), st.integers(1, 40))
@quick
def test_reaches_its_certificate(rng, experts, width):
    x = points(rng, experts, width)
    d2 = squared_distances(x)
    ball = enclosing_ball(d2)
    assert ball.weights.min() >= 0
    assert ball.weights.sum() == pytest.approx(1, abs=1e-12)
    # The certificate, recomputed; and geometry: the centre is as near to all as claimed.
    gradient = d2 @ ball.weights
    assert gradient.max() - ball.weights @ gradient <= 1e-10 * d2.max()
    assert ball.gap <= 1e-10 * d2.max()
    to_centre = ((x - ball.weights @ x) ** 2).sum(axis=1)
    assert to_centre.max() == pytest.approx(ball.value, rel=1e-8, abs=1e-300)


@given(generators, st.integers(2, 10), st.integers(1, 6))
@quick
def test_follows_permutations_scales_and_duplicates(rng, experts, width):
    d2 = squared_distances(points(rng, experts, width))
    radius = enclosing_ball(d2).value
    order = rng.permutation(experts)
    doubled = np.tile(d2, (2, 2))
    for variant, factor in (
        (d2[np.ix_(order, order)], 1.0),
        (d2 * 1e-12, 1e-12),
        (d2 * 1e12, 1e12),
        (doubled, 1.0),
    ):
        ball = enclosing_ball(variant)
        assert ball.value == pytest.approx(factor * radius, rel=1e-10, abs=1e-300)
        assert ball.gap <= 1e-10 * variant.max()


@given(generators, st.integers(2, 10))
@quick
def test_any_start_leads_to_the_same_ball(rng, experts):
    d2 = squared_distances(points(rng, experts, 3))
    start = rng.dirichlet(np.ones(experts)) * (rng.random(experts) < 0.7)
    if start.sum() == 0:
        start[0] = 1.0
    found = enclosing_ball(d2, start / start.sum())
    assert found.value == pytest.approx(enclosing_ball(d2).value, rel=1e-10)


def test_nearly_dependent_points_on_a_sphere():
    # Stopped an earlier version: the constant direction mixed with a nearly flat one.
    rng = np.random.default_rng(5)
    for _ in range(2000):
        experts, width = int(rng.integers(4, 12)), int(rng.choice([2, 3, 4, 5]))
        x = rng.normal(size=(experts, width))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        d2 = ((x[:, np.newaxis] - x) ** 2).sum(axis=2)
        assert enclosing_ball(d2).gap <= 1e-10 * d2.max()


@pytest.mark.parametrize("experts", [1, 2, 5])
def test_equal_points(experts):
    ball = enclosing_ball(np.zeros((experts, experts)))
    assert ball.value == ball.gap == 0
    np.testing.assert_allclose(ball.weights, 1 / experts)


def test_points_on_a_line_use_only_the_ends():
    x = np.array([[0.0], [1.0], [5.0], [2.0]])
    ball = enclosing_ball(squared_distances(x))
    assert ball.value == pytest.approx(6.25)
    np.testing.assert_allclose(ball.weights, [0.5, 0, 0.5, 0], atol=1e-12)
