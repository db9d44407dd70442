"""Every golden case and every convention of the theory, section by section."""

import math

import numpy as np
import pytest

from pytest_mergegate.metrics import (
    ConflictSums,
    Undefined,
    certified_loss,
    conflicting_magnitude_ratio,
    cosine,
    diameter,
    disagreement_bound,
    distortion_curve,
    distortions,
    feasibility,
    fewest_merges,
    hidden_similarity,
    jung_upper,
    magnitude_change_ratio,
    merging_difficulty,
    merging_difficulty_interval,
    merging_loss,
    merging_loss_interval,
    minimum_distortion,
    miss_controlled_threshold,
    own_input_distortion,
    pairwise_distances,
    pairwise_squared_distances,
    paper_bound,
    paper_loss_model,
    parameter_conflicts,
    pool_losses,
    radius_bounds,
    relative_size,
    retention,
    sign_change_ratio,
    uniform_distortion,
)


def reason(call):
    with pytest.raises(Undefined) as caught:
        call()
    return caught.value.reason


def regular(experts, distance=1.0):
    return distance * (1 - np.eye(experts))


class TestSection1MergingLoss:
    def test_sign_and_unit(self):
        assert merging_loss(0.45, 0.90) == pytest.approx(-50)
        assert merging_loss(0.99, 0.90) == pytest.approx(10)

    def test_no_expert_score_no_loss(self):
        assert reason(lambda: merging_loss(0.0, 0.0)) == "expert_score_zero"
        assert reason(lambda: merging_loss_interval([0, 0], [0, 0])) == "expert_score_zero"

    def test_pool(self):
        pool = pool_losses([-10, -20, 3])
        assert (pool.mean, pool.worst) == (-9, -20)

    def test_chance_corrected_retention(self):
        assert retention(0.75, 1.0, 0.5) == 0.5

    def test_interval_is_paired_and_fixed(self):
        merged, scores = [1, 0, 0, 1, 0, 1, 0, 1], [1, 0, 1, 1, 0, 1, 1, 1]
        low, high = merging_loss_interval(merged, scores)
        assert (low, high) == merging_loss_interval(merged, scores)
        assert -100 <= low < merging_loss(4, 6) < high
        # section 9: two of six answers lost, at 97.5 %
        assert low == -100 * disagreement_bound(2, 6, confidence=0.975)


class TestSection2Conflicts:
    # Positions: agree, opposite, zero facing non-zero, both zero.
    SUMS = ConflictSums.of([2.0, 1.0, 0.0, 0.0], [1.0, -1.0, 3.0, 0.0])

    def test_formulas(self):
        assert magnitude_change_ratio(self.SUMS) == pytest.approx((1 + 2 + 3) / (3 + 5))
        assert sign_change_ratio(self.SUMS) == 2 / 4
        assert conflicting_magnitude_ratio(self.SUMS) == pytest.approx((2 + 3) / (3 + 5))
        assert cosine(self.SUMS) == pytest.approx((2 - 1) / math.sqrt(5 * 11))

    def test_the_mean_of_cosines_is_not_the_cosine(self):
        a, b = [np.array([1.0]), np.array([10.0, 0.0])], [np.array([1.0]), np.array([0.0, 10.0])]
        result = parameter_conflicts(a, b)
        assert result.cosine == pytest.approx(1 / 101)
        assert result.cosine_mean == 0.5

    def test_two_zero_task_vectors(self):
        zero = ConflictSums.of([0.0], [0.0])
        for metric in (
            magnitude_change_ratio,
            sign_change_ratio,
            conflicting_magnitude_ratio,
            cosine,
        ):
            assert reason(lambda metric=metric: metric(zero)) == "zero_task_vectors"

    def test_the_inner_product_of_lora_needs_no_dense_matrix(self):
        rng = np.random.default_rng(0)
        b1, a1, b2, a2 = (rng.normal(size=s) for s in ((6, 2), (2, 5), (6, 3), (3, 5)))
        dense = ConflictSums.of(2.0 * b1 @ a1, 0.5 * b2 @ a2)
        assert dense.dot == pytest.approx(2.0 * 0.5 * np.sum((b1.T @ b2) * (a1 @ a2.T)))


class TestSection3Representations:
    def test_fewer_than_three_experts(self):
        assert reason(lambda: hidden_similarity(regular(2))) == "needs_three_experts"

    def test_three_experts_have_similarities_0_t_1(self):
        d = np.array([[0, 1, 3], [1, 0, 1.5], [3, 1.5, 0]])
        similarity = hidden_similarity(d)
        pairs = sorted(similarity[np.triu_indices(3, 1)])
        assert pairs == [0, pytest.approx(0.75), 1]
        np.testing.assert_allclose(
            merging_difficulty(similarity), [2 / (1 + 0), 2 / (1 + 0.75), 2 / (0 + 0.75)]
        )

    @pytest.mark.parametrize("difference", [0.0, 0.9e-9])
    def test_equidistant(self, difference):
        d = regular(4)
        d[0, 1] = d[1, 0] = 1 - difference
        assert reason(lambda: hidden_similarity(d)) == "equidistant"
        assert reason(lambda: merging_difficulty_interval([d], ["a"])) == "equidistant"

    def test_every_similarity_zero_is_infinite_difficulty(self):
        d = regular(4, 2.0)
        d[1, 2] = d[2, 1] = 1.0
        scores = merging_difficulty(hidden_similarity(d))
        assert scores.tolist() == [math.inf, 3.0, 3.0, math.inf]

    def test_adding_an_expert_changes_every_score(self):
        x = np.array([[0.0, 0.0], [1.0, 0.2], [2.0, 0.1], [0.5, 3.0], [30.0, 30.0]])
        d = np.linalg.norm(x[:, np.newaxis] - x, axis=2)
        before = merging_difficulty(hidden_similarity(d[:4, :4]))
        after = merging_difficulty(hidden_similarity(d))[:4]
        assert (np.abs(after - before) > 0.01).all()

    def test_unit_distance_of_orthogonal_states(self):
        states = [np.array([[[5.0, 0.0]], [[0.0, 0.1]]])]
        assert pairwise_distances(states)[0, 0, 1] == pytest.approx(math.sqrt(2))
        assert pairwise_squared_distances(states)[0, 0, 1] == pytest.approx(25.01)

    def test_mean_of_norms_is_not_the_input_of_the_bounds(self):
        states = [np.eye(3)[x][:, np.newaxis, np.newaxis] for x in range(3)]
        d = pairwise_distances(states, normalize="none").mean(axis=0)
        d2 = pairwise_squared_distances(states).mean(axis=0)
        assert d2[0, 1] == pytest.approx(2 / 3)
        assert d[0, 1] ** 2 == pytest.approx(4 / 9)

    def test_the_interval_is_never_nan(self):
        d = regular(4, 2.0)
        d[1, 2] = d[2, 1] = 1.0
        interval = merging_difficulty_interval([d] * 3, ["a"] * 3)
        assert interval[0].tolist() == [math.inf, math.inf]
        assert not np.isnan(interval).any()


class TestSection4Companions:
    def test_ratios_of_root_mean_squares(self):
        d2 = regular(3, 4.0)
        assert relative_size(diameter(d2) ** 2, 100.0) == 0.2
        assert relative_size(1.0, 4.0) == 0.5
        assert reason(lambda: relative_size(1.0, 0.0)) == "zero_hidden_states"


class TestSection5Bounds:
    def test_two_experts(self):
        result = minimum_distortion(regular(2, 7.0))
        assert result.value == 7 / 4
        assert result.weights.tolist() == [0.5, 0.5]
        assert result.gap == 0

    @pytest.mark.parametrize("experts", [2, 3, 5, 8, 64])
    def test_regular_simplex(self, experts):
        d2 = regular(experts, 3.0)
        expected = 3.0 * (experts - 1) / (2 * experts)
        assert minimum_distortion(d2).value == pytest.approx(expected, rel=1e-12)
        assert jung_upper(d2) == pytest.approx(expected, rel=1e-12)
        assert uniform_distortion(d2) == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(minimum_distortion(d2).weights, 1 / experts, atol=1e-9)

    def test_seven_experts_at_0_and_one_at_1(self):
        x = np.array([0.0] * 7 + [1.0])
        d2 = (x[:, np.newaxis] - x) ** 2
        result = minimum_distortion(d2)
        assert result.value == pytest.approx(0.25, abs=1e-12)
        assert result.weights[7] == pytest.approx(0.5, abs=1e-12)
        assert uniform_distortion(d2) == pytest.approx(0.765625, abs=1e-12)
        # The worst case of uniform weights, 4(1 - 1/N)², is reached.
        assert uniform_distortion(d2) / result.value == pytest.approx(4 * (1 - 1 / 8) ** 2)

    def test_one_weight_vector_for_all_inputs(self):
        # d = 1, N = 3, h_i(x) = 1{x = i}, x uniform on three inputs.
        states = [np.eye(3)[x][:, np.newaxis, np.newaxis] for x in range(3)]
        d2 = pairwise_squared_distances(states).mean(axis=0)
        assert diameter(d2) ** 2 == pytest.approx(2 / 3)
        assert minimum_distortion(d2).value == pytest.approx(2 / 9)
        assert paper_bound(d2, 1) == pytest.approx(1 / 6)
        # A budget that the paper's test would call feasible, and no merge can meet.
        assert paper_bound(d2, 1) <= 0.2
        assert feasibility(d2, 0.2) == "impossible"

    def test_a_single_expert(self):
        result = minimum_distortion([[0.0]])
        assert (result.value, result.weights.tolist(), result.gap) == (0, [1], 0)
        assert diameter([[0.0]]) == jung_upper([[0.0]]) == 0
        assert [point.models for point in distortion_curve([[0.0]])] == [1]

    def test_identical_experts_merge_for_free(self):
        d2 = np.zeros((5, 5))
        assert minimum_distortion(d2).value == uniform_distortion(d2) == 0
        assert feasibility(d2, 0.0) == "possible"
        assert fewest_merges(d2, 0.0).groups == ((0, 1, 2, 3, 4),)

    def test_bounds_of_an_equilateral_triangle(self):
        bounds = radius_bounds(regular(3))
        assert (bounds.lower, bounds.upper) == (0.25, pytest.approx(1 / 3))

    def test_the_certificate_is_zero_at_the_optimum_and_positive_elsewhere(self):
        x = np.random.default_rng(0).normal(size=(6, 4))
        d2 = ((x[:, np.newaxis] - x) ** 2).sum(axis=2)
        best = minimum_distortion(d2).weights
        for weights, optimal in ((best, True), (np.full(6, 1 / 6), False)):
            certificate = (d2 @ weights).max() - weights @ d2 @ weights
            assert (abs(certificate) <= 1e-10 * d2.max()) == optimal
        np.testing.assert_allclose(
            distortions(d2, best)[best > 1e-6], minimum_distortion(d2).value, rtol=1e-9
        )

    def test_the_curve_of_four_corners(self):
        # A 2 × 4 rectangle: all in R² = 5, the two short sides in R² = 1.
        x = np.array([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 2.0]])
        d2 = ((x[:, np.newaxis] - x) ** 2).sum(axis=2)
        curve = distortion_curve(d2)
        assert [point.distortion for point in curve] == pytest.approx([5, 1, 1, 0], abs=1e-12)
        assert curve[1].groups == ((0, 1), (2, 3))
        assert fewest_merges(d2, 4.99).groups == ((0, 1), (2, 3))
        assert len(fewest_merges(d2, 0.5).groups) == 4

    def test_exact_up_to_twelve(self):
        line = np.arange(13.0)
        for experts, exact in ((12, True), (13, False)):
            d2 = (line[:experts, np.newaxis] - line[:experts]) ** 2
            partition = fewest_merges(d2, 1.0)
            assert partition.exact == exact
            assert partition.worst <= 1.0
        # Three in a row fit in R² = 1: four groups of the twelve.
        assert len(fewest_merges((line[:12, np.newaxis] - line[:12]) ** 2, 1.0).groups) == 4

    def test_own_inputs(self):
        gram = np.array([[4.0, 1.0], [1.0, 9.0]])
        result = own_input_distortion(gram, [0.5, 0.5], 0)
        assert result.dilution == 0.25 * 4
        assert result.interference == 0.25 * 9
        assert result.cross == -2 * 0.5 * 0.5
        assert result.total == 1 + 2.25 - 0.5


class TestSection6Certificates:
    def test_no_disagreement_in_64(self):
        upper = disagreement_bound(0, 64)
        assert upper == pytest.approx(1 - 0.05 ** (1 / 64), rel=1e-9)
        assert round(100 * upper, 1) == 4.6

    def test_the_certified_loss(self):
        assert certified_loss(0.046, 0.92) == pytest.approx(-5)
        assert certified_loss(0.9, 0.5) == -100
        assert reason(lambda: certified_loss(0.1, 0.0)) == "expert_score_zero"

    def test_the_certificate_holds(self):
        # Metric values in [0, 1] that only change where the outputs differ.
        rng = np.random.default_rng(0)
        for _ in range(200):
            expert = rng.random(50)
            differ = rng.random(50) < rng.random()
            merged = np.where(differ, rng.random(50), expert)
            loss = merging_loss(merged.mean(), expert.mean())
            assert loss >= certified_loss(differ.mean(), expert.mean()) - 1e-9


class TestSection7Prediction:
    def test_the_line_and_its_interval(self):
        prediction = paper_loss_model(3.0)
        assert prediction.loss == pytest.approx(13.69 - 11.39 * 3)
        assert prediction.high - prediction.loss == pytest.approx(25, abs=1.5)

    def test_no_collapse_recorded_no_threshold(self):
        assert reason(lambda: miss_controlled_threshold([1.0] * 8, 0.1)) == "needs_more_collapses"
        with pytest.raises(Undefined, match="cannot certify: needs k ≥ 9 collapses"):
            miss_controlled_threshold([1.0] * 8, 0.1)

    def test_the_mth_smallest_collapse(self):
        scores = [0.9, 0.3, 0.7, 0.5, 0.8, 0.4, 0.6, 0.2, 1.0]
        assert miss_controlled_threshold(scores, 0.1) == 0.2
        assert miss_controlled_threshold(scores, 0.3) == 0.4
        # 0.29·100 is 28.999999999999996 in floats.
        assert miss_controlled_threshold(np.arange(99.0), 0.29) == 28
