import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
