import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.metrics import (
    Undefined,
    effective_scale,
    linearity_gap,
    mean_square_norm,
    mix_states,
    own_input_distortion,
    own_input_gram,
    relative_size,
)

from .strategies import generators, quick


def random_states(rng, experts):
    lengths = [int(t) for t in rng.integers(1, 4, size=3)]
    states = [rng.normal(size=(experts, t, 3)) for t in lengths]
    return states, [rng.normal(size=(t, 3)) for t in lengths]


@given(generators, st.integers(1, 6))
@quick
def test_own_input_distortion_is_the_distance_to_the_forecast(rng, experts):
    states, bases = random_states(rng, experts)
    weights, own = rng.normal(size=experts), int(rng.integers(experts))
    result = own_input_distortion(own_input_gram(states, bases), weights, own)
    mixed = mix_states(states, bases, weights)
    differences = [mix - probe[own] for mix, probe in zip(mixed, states, strict=True)]
    assert result.total == pytest.approx(mean_square_norm(differences), rel=1e-9, abs=1e-12)
    assert result.total == pytest.approx(
        result.dilution + result.interference + result.cross, rel=1e-9, abs=1e-12
    )


@given(generators, st.integers(1, 5))
@quick
def test_parts_against_loops(rng, experts):
    shifts = rng.normal(size=(experts, 4))
    gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in shifts] for x in shifts]
    weights, own = rng.normal(size=experts), int(rng.integers(experts))
    others = sum((weights[j] * shifts[j] for j in range(experts) if j != own), np.zeros(4))
    lost = (1 - weights[own]) * shifts[own]
    result = own_input_distortion(gram, weights, own)
    assert result.dilution == pytest.approx(lost @ lost)
    assert result.interference == pytest.approx(others @ others, abs=1e-12)
    assert result.cross == pytest.approx(-2 * lost @ others, abs=1e-12)


def test_pure_causes():
    gram = np.eye(2)
    dilution = own_input_distortion(gram, [0.5, 0.0], 0)
    assert (dilution.dilution, dilution.interference, dilution.cross) == (0.25, 0, 0)
    interference = own_input_distortion(gram, [1.0, 1.0], 0)
    assert (interference.dilution, interference.interference, interference.cross) == (0, 1, 0)
    identity = own_input_distortion(gram, [1.0, 0.0], 0)
    assert identity.total == 0
    # A twin makes up for the dilution: the cross term is negative.
    twin = own_input_distortion(np.ones((2, 2)), [0.5, 0.5], 0)
    assert (twin.cross, twin.total) == (-0.5, 0)


def test_identity_weights_forecast_the_expert_itself():
    states, bases = random_states(np.random.default_rng(0), 3)
    for mixed, probe in zip(mix_states(states, bases, [0, 1, 0]), states, strict=True):
        np.testing.assert_allclose(mixed, probe[1], atol=1e-12)
    for mixed, base in zip(mix_states(states, bases, [0, 0, 0]), bases, strict=True):
        np.testing.assert_array_equal(mixed, base)


def test_linearity_gap():
    mixed = [np.zeros((2, 2)), np.zeros((1, 2))]
    merged = [np.array([[3.0, 4.0], [0.0, 0.0]]), np.zeros((1, 2))]
    # Probe means 25/2 and 0, then their mean.
    assert linearity_gap(merged, mixed) == pytest.approx(2.5)
    assert linearity_gap(mixed, mixed) == 0
    with pytest.raises(ValueError, match="match"):
        linearity_gap(merged[:1], mixed)


def test_mean_square_norm_weighs_probes_equally():
    assert mean_square_norm([np.array([[3.0, 4.0]]), np.zeros((5, 2))]) == 12.5
    with pytest.raises(ValueError, match="empty"):
        mean_square_norm([])


def test_relative_size():
    assert relative_size(4.0, 16.0) == 0.5
    assert relative_size(0.0, 16.0) == 0
    with pytest.raises(Undefined) as caught:
        relative_size(1.0, 0.0)
    assert caught.value.reason == "zero_hidden_states"
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="mean_square"):
            relative_size(bad, 1.0)


@given(generators)
@quick
def test_effective_scale_is_the_least_squares_fit(rng):
    merged, summed = rng.normal(size=(2, 3, 5))
    fitted = np.linalg.lstsq(summed.reshape(-1, 1), merged.ravel(), rcond=None)[0][0]
    assert effective_scale(merged, summed) == pytest.approx(fitted)
    assert effective_scale(0.25 * summed, summed) == pytest.approx(0.25)


def test_refuses_bad_input():
    gram, states, bases = np.eye(2), [np.ones((2, 1, 3))], [np.ones((1, 3))]
    for call, message in (
        (lambda: own_input_distortion(gram, [1.0], 0), "length 2"),
        (lambda: own_input_distortion(gram, [1.0, math.nan], 0), "NaN"),
        (lambda: own_input_distortion(gram, [1.0, 0.0], 2), "below 2"),
        (lambda: own_input_distortion(gram, [1.0, 0.0], -1), "expert"),
        (lambda: own_input_distortion(-gram, [1.0, 0.0], 0), "Gram"),
        (lambda: own_input_distortion([[1, 2], [0, 1]], [1.0, 0.0], 0), "symmetric"),
        (lambda: own_input_gram(states, []), "match"),
        (lambda: mix_states(states, bases, [1.0]), "length 2"),
        (lambda: mix_states(states, [np.ones((2, 3))], [1.0, 0.0]), "match"),
        (lambda: effective_scale([1.0], [1.0, 2.0]), "one shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(Undefined) as caught:
        effective_scale([1.0], [0.0])
    assert caught.value.reason == "zero_task_vectors"
