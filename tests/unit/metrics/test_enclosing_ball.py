import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from pytest_mergegate.metrics.enclosing_ball import enclosing_ball

from .strategies import generators, points, quick, squared_distances


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
