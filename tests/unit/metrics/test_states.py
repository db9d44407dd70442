import math

import numpy as np
import pytest
from hypothesis import given

from pytest_mergegate.metrics import (
    Undefined,
    effective_scale,
    linearity_gap,
    mean_square_norm,
    mix_states,
    own_input_distortion,
    own_input_gram,
    pairwise_distances,
    pairwise_squared_distances,
    relative_size,
)

from .strategies import generators, quick


def naive(states, power, scale=None):
    """Loops over probes, pairs, positions and coordinates."""
    result = []
    for p, probe in enumerate(states):
        experts, positions, width = probe.shape
        matrix = np.zeros((experts, experts))
        for i in range(experts):
            for j in range(experts):
                for t in range(positions):
                    square = 0.0
                    for c in range(width):
                        left, right = probe[i, t, c], probe[j, t, c]
                        if scale is not None:
                            left, right = left / scale(p, i, t), right / scale(p, j, t)
                        square += (left - right) ** 2
                    matrix[i, j] += square ** (power / 2) / positions
        result.append(matrix)
    return np.array(result)


def probes_of_experts(rng):
    experts, width = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    lengths = rng.integers(1, 4, size=int(rng.integers(1, 4)))
    states = [rng.normal(size=(experts, int(t), width)) + 0.1 for t in lengths]
    bases = [rng.normal(size=(int(t), width)) + 0.1 for t in lengths]
    return states, bases


@given(generators)
@quick
def test_against_loops(rng):
    states, bases = probes_of_experts(rng)

    def norm(vector):
        return math.sqrt(sum(float(x) ** 2 for x in vector))

    cases = [
        (pairwise_squared_distances(states), naive(states, 2)),
        (pairwise_distances(states, normalize="none"), naive(states, 1)),
        (
            pairwise_distances(states),
            naive(states, 1, lambda p, i, t: norm(states[p][i, t])),
        ),
        (
            pairwise_distances(states, normalize="base", base_states=bases),
            naive(states, 1, lambda p, i, t: norm(bases[p][t])),
        ),
    ]
    for result, expected in cases:
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(result, result.swapaxes(1, 2))
        assert not np.diagonal(result, axis1=1, axis2=2).any()


@given(generators)
@quick
def test_permuting_experts_permutes_distances(rng):
    states, _ = probes_of_experts(rng)
    order = rng.permutation(len(states[0]))
    np.testing.assert_allclose(
        pairwise_distances([probe[order] for probe in states]),
        pairwise_distances(states)[:, order][:, :, order],
        rtol=1e-12,
    )


@given(generators)
@quick
def test_unit_distances_ignore_the_length_of_each_state(rng):
    states, _ = probes_of_experts(rng)
    stretched = [probe * rng.uniform(0.1, 10, size=(*probe.shape[:2], 1)) for probe in states]
    result = pairwise_distances(stretched)
    np.testing.assert_allclose(result, pairwise_distances(states), atol=1e-12)
    assert result.max() <= 2 + 1e-12


def test_small_distances_far_from_the_origin_survive():
    # The Gram matrix of these states would lose every digit of the distance.
    states = [np.array([[[1e8, 1.0]], [[1e8, 1.0 + 2**-20]]])]
    assert pairwise_squared_distances(states)[0, 0, 1] == 2.0**-40
    assert pairwise_distances(states, normalize="none")[0, 0, 1] == 2.0**-20


def test_positions_are_averaged_as_distances():
    # Distances 1 and 3 at two positions: mean 2, mean square 5.
    states = [np.array([[[0.0], [0.0]], [[1.0], [3.0]]])]
    assert pairwise_distances(states, normalize="none")[0, 0, 1] == 2
    assert pairwise_squared_distances(states)[0, 0, 1] == 5


def test_half_precision_is_computed_in_double():
    states = [np.array([[[60000.0]], [[-60000.0]]], dtype=np.float16)]
    exact = 2 * float(np.float16(60000))
    assert pairwise_squared_distances(states)[0, 0, 1] == exact**2


def test_a_zero_state_cannot_be_normalised():
    states, bases = [np.array([[[0.0, 0.0]], [[1.0, 0.0]]])], [np.zeros((1, 2))]
    for options in ({}, {"normalize": "base", "base_states": bases}):
        with pytest.raises(Undefined) as caught:
            pairwise_distances(states, **options)
        assert caught.value.reason == "zero_hidden_state"
    assert pairwise_distances(states, normalize="none")[0, 0, 1] == 1


@pytest.mark.parametrize(
    ("states", "options", "message"),
    [
        ([], {}, "at least one probe"),
        ([np.ones((2, 3))], {}, "3 dimension"),
        ([np.ones((2, 0, 3))], {}, "empty"),
        ([np.ones((0, 1, 3))], {}, "empty"),
        ([np.ones((2, 1, 3)), np.ones((3, 1, 3))], {}, "same experts"),
        ([np.ones((2, 1, 3)), np.ones((2, 1, 4))], {}, "same experts"),
        ([np.full((2, 1, 3), np.nan)], {}, "NaN"),
        ([np.ones((2, 1, 3))], {"normalize": "l1"}, "normalize"),
        ([np.ones((2, 1, 3))], {"normalize": "base"}, "base_states"),
        ([np.ones((2, 1, 3))], {"normalize": "base", "base_states": []}, "match"),
        ([np.ones((2, 1, 3))], {"normalize": "base", "base_states": [np.ones((2, 3))]}, "match"),
    ],
)
def test_refuses(states, options, message):
    with pytest.raises(ValueError, match=message):
        pairwise_distances(states, **options)
    if not options:
        with pytest.raises(ValueError, match=message):
            pairwise_squared_distances(states)


def random_states(rng, experts):
    lengths = [int(t) for t in rng.integers(1, 4, size=3)]
    states = [rng.normal(size=(experts, t, 3)) for t in lengths]
    return states, [rng.normal(size=(t, 3)) for t in lengths]


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
