"""What is right at the ends of float64, by hand: weights, gaps, promises, pairs."""

import math
import warnings

import numpy as np
import pytest

from pytest_mergegate import metrics
from pytest_mergegate.metrics.pairwise import PairwiseConflicts
from pytest_mergegate.metrics.resampling import mantel


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_what_float64_cannot_square_is_refused():
    states = np.array([[[1.7e308, 0.0]], [[-1.7e308, 0.0]], [[0.0, 1e-300]]])
    for call in (
        lambda: metrics.pairwise_distances([states], normalize="unit"),
        lambda: metrics.pairwise_distances([states[2:]], normalize="none"),
        lambda: metrics.mix_states([states], [states[0]], [0.0, 0.5, 0.0]),
        lambda: metrics.mean_square_norm([states[2]]),
        lambda: metrics.minimum_distortion([[0.0, 1e-300], [1e-300, 0.0]]),
        lambda: metrics.ConflictSums(absolute_difference=1.7e308, absolute_a=1.7e308),
    ):
        with pytest.raises(ValueError, match="float64"):
            call()


def test_weights_of_any_size():
    gram = np.eye(2)
    for call in (
        lambda: metrics.own_input_distortion(gram, [1e200, 0.0], 0),
        lambda: metrics.worst_own_input_distortion([gram, gram], [1e200, 0.0]),
        lambda: metrics.minimax_weights([[[1e-170, 0], [0, 1e170]], np.eye(2)]),
        lambda: metrics.distortions([[0.0, 1.0], [1.0, 0.0]], [1.7e308, 1.7e308]),
    ):
        with pytest.raises(ValueError, match="float64"):
            call()
    parts = metrics.own_input_distortion(np.diag([1e-100, 1e150]), [0.0, 1e-80], 0)
    assert parts.dilution == pytest.approx(1e-100, rel=1e-12, abs=0)
    assert parts.interference == pytest.approx(1e-10, rel=1e-12, abs=0)


def test_a_gap_whose_square_vanishes_is_no_gap_of_zero():
    same = np.zeros((2, 2))
    assert metrics.feasibility(same, 0.0) == "possible"
    assert metrics.feasibility(same, 0.0, linearity_gap=1e-60) == "undecided"
    assert metrics.feasibility(same, 1e-100, linearity_gap=1e-60) == "possible"
    assert metrics.feasibility(same, 1.0, linearity_gap=1e60) == "undecided"
    for gap in (1e-200, 1e200):
        with pytest.raises(ValueError, match="float64"):
            metrics.feasibility(same, 0.0, linearity_gap=gap)


def test_promises_at_their_ends():
    low, _ = metrics.disagreement_interval(1, 10**15)
    assert low == pytest.approx(-math.log1p(-0.025) / 10**15, rel=1e-9)
    assert metrics.inputs_needed(0, 9, 1e-12) == pytest.approx(-math.log(0.05) * 1e12, rel=1e-9)
    for bad in (1e-17, 1e-300):
        with pytest.raises(ValueError, match="limit is too small"):
            metrics.inputs_needed(0, 9, bad)
    for n in (2**53 + 1, 10**400):
        with pytest.raises(ValueError, match="at most 2"):
            metrics.disagreement_bound(0, n)
    with pytest.raises(ValueError, match="confidence must be at least"):
        metrics.disagreement_bound(0, 9, confidence=1e-300)


def test_predictions_at_their_ends():
    assert metrics.paper_loss_model(1e50).loss == metrics.paper_loss_model(1e60).low == -100
    with pytest.raises(ValueError, match="float64"):
        metrics.paper_loss_model(1e200)
    assert metrics.paper_loss_model(2.0, confidence=1 - 2**-53).high < 300
    wide = [metrics.paper_loss_model(m, confidence=1 - 1e-9).high / m for m in (1e30, 1e50, 1e60)]
    assert wide[0] > 0
    assert wide[1:] == pytest.approx([wide[0]] * 2, rel=1e-9)


@pytest.mark.parametrize("unit", [1e-200, 1e-12, 1e200, 1e300])
def test_matrices_go_together_in_any_unit(unit, seed):
    first, second = np.random.default_rng(seed).normal(size=(2, 5, 5))
    known = mantel(first, second, permutations=99)
    for found in (
        mantel(first * unit, second, permutations=99),
        mantel(first, second * unit, permutations=99),
    ):
        assert found.r == pytest.approx(known.r, rel=1e-9)
        assert found.p == known.p


@pytest.mark.parametrize("power", [-500, -100, 100, 400])
def test_gradients_and_ratios_of_all_pairs_in_any_unit(power, seed):
    sums = np.random.default_rng(seed).uniform(1, 2, size=(8, 3, 3))
    units = np.array([1, 1, 0, 2, 1, 1, 2, 2])[:, None, None] * power
    known = PairwiseConflicts(sums=sums, positions=np.full((3, 3), 9.0))
    found = PairwiseConflicts(sums=np.ldexp(sums, units), positions=np.full((3, 3), 9.0))
    np.testing.assert_allclose(found.cosine(), known.cosine(), rtol=1e-12)
    for name in ("magnitude_change_ratio", "conflicting_magnitude_ratio", "cosine"):
        gradient = np.ldexp(known.gradient_of(name), -units)
        np.testing.assert_allclose(found.gradient_of(name), gradient, rtol=1e-12)


def test_sums_over_no_positions_have_no_share():
    with pytest.raises(ValueError, match="no positions"):
        metrics.sign_change_ratio(metrics.ConflictSums(absolute_a=1.0))
