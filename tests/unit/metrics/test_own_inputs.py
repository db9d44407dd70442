import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.metrics import (
    Undefined,
    mean_square_norm,
    minimax_weights,
    mix_states,
    own_input_distortion,
    own_input_gram,
    worst_own_input_distortion,
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


def random_grams(rng, experts):
    sizes = rng.uniform(0.1, 10, (1, experts, 1))
    shifts = rng.standard_normal((experts, experts, 3 * experts)) * sizes
    return shifts @ shifts.swapaxes(1, 2)


def naive_worst(grams, weights):
    """max_i E‖Σ λ_j S_j − S_i‖² / E‖S_i‖², written out."""
    worst = 0.0
    for i, gram in enumerate(grams):
        total = 0.0
        for j, a in enumerate(weights):
            for k, b in enumerate(weights):
                total += (a - (i == j)) * gram[j, k] * (b - (i == k))
        worst = max(worst, total / gram[i, i])
    return worst


@given(generators, st.integers(1, 6))
@quick
def test_value_is_the_distortion_of_the_weights(rng, experts):
    grams = random_grams(rng, experts)
    best = minimax_weights(grams)
    assert best.weights.sum() == pytest.approx(1)
    assert (best.weights >= 0).all()
    assert best.value == pytest.approx(naive_worst(grams, best.weights), rel=1e-6, abs=1e-9)
    anywhere = rng.dirichlet(np.ones(experts))
    assert worst_own_input_distortion(grams, anywhere) == pytest.approx(
        naive_worst(grams, anywhere)
    )


@given(generators, st.integers(2, 6))
@quick
def test_no_other_shares_are_better(rng, experts):
    grams = random_grams(rng, experts)
    best = minimax_weights(grams)
    for concentration in (0.3, 1.0, 10.0):
        for shares in rng.dirichlet(np.full(experts, concentration), 50):
            assert best.value <= worst_own_input_distortion(grams, shares) * (1 + 1e-5)
            nearby = 0.99 * best.weights + 0.01 * shares
            assert best.value <= worst_own_input_distortion(grams, nearby) * (1 + 1e-5)


def test_golden_cases():
    """Two experts that have nothing to do with each other; then one who moves its inputs alone."""
    two = minimax_weights(np.stack([np.eye(2), np.eye(2)]))
    assert two.weights == pytest.approx([0.5, 0.5])
    assert two.value == pytest.approx(0.5)
    alone = minimax_weights(np.stack([np.diag([4.0, 0.0]), np.diag([0.0, 1.0])]))
    assert alone.weights == pytest.approx([0.5, 0.5])
    assert alone.value == pytest.approx(0.25)


def test_experts_that_do_not_move_their_inputs():
    idle = np.zeros((2, 2))
    with pytest.raises(Undefined, match="no expert moves its own inputs"):
        minimax_weights(np.stack([idle, idle]))
    assert minimax_weights(np.stack([np.eye(2), idle])).value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 2), (2, 3, 3)], ids=str)
def test_shapes(shape):
    with pytest.raises(ValueError, match="grams"):
        minimax_weights(np.ones(shape))
