import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_mergegate.metrics import (
    Undefined,
    hidden_similarity,
    mean_similarity,
    merging_difficulty,
    merging_difficulty_interval,
)
from pytest_mergegate.metrics.similarity import order_statistics

from .strategies import distances, generators, quick

sizes = st.integers(3, 9)


def naive_similarity(d):
    pairs = [d[i][j] for i, j in combinations(range(len(d)), 2)]
    return [
        [
            1.0 if i == j else (max(pairs) - d[i][j]) / (max(pairs) - min(pairs))
            for j in range(len(d))
        ]
        for i in range(len(d))
    ]


def naive_difficulty(d):
    similarity = naive_similarity(d)
    scores = []
    for i, row in enumerate(similarity):
        mean = sum(s for j, s in enumerate(row) if j != i) / (len(row) - 1)
        scores.append(1 / mean if mean > 0 else math.inf)
    return scores


@given(generators, sizes)
@quick
def test_against_loops(rng, experts):
    d = distances(rng, experts)
    similarity = hidden_similarity(d)
    np.testing.assert_allclose(similarity, naive_similarity(d.tolist()), rtol=1e-12)
    np.testing.assert_allclose(merging_difficulty(similarity), naive_difficulty(d), rtol=1e-12)
    np.testing.assert_allclose(
        mean_similarity(similarity), 1 / np.array(naive_difficulty(d)), rtol=1e-12
    )


@given(generators, sizes)
@quick
def test_scores_lie_in_their_ranges(rng, experts):
    similarity = hidden_similarity(distances(rng, experts))
    pairs = similarity[np.triu_indices(experts, 1)]
    assert (pairs.min(), pairs.max()) == (0.0, 1.0)
    assert merging_difficulty(similarity).min() >= 1


@given(generators, sizes)
@quick
def test_ignores_scale_and_offset_and_follows_permutations(rng, experts):
    d = distances(rng, experts)
    order = rng.permutation(experts)
    scores = merging_difficulty(hidden_similarity(d))
    moved = 3e-7 * d + 2e-7 * (1 - np.eye(experts))
    np.testing.assert_allclose(merging_difficulty(hidden_similarity(moved)), scores, rtol=1e-6)
    permuted = merging_difficulty(hidden_similarity(d[np.ix_(order, order)]))
    np.testing.assert_allclose(permuted, scores[order], rtol=1e-12)


def regular(experts, distance=1.0):
    return np.where(np.eye(experts) == 1, 0.0, distance)


@pytest.mark.parametrize("noise", [0.0, 1e-10])
def test_equidistant_experts_have_no_similarity(noise):
    d = regular(4)
    d[0, 1] = d[1, 0] = 1 + noise
    with pytest.raises(Undefined) as caught:
        hidden_similarity(d)
    assert caught.value.reason == "equidistant"


def test_a_difference_above_the_tolerance_counts():
    d = regular(4)
    d[0, 1] = d[1, 0] = 1 + 1e-8
    assert hidden_similarity(d)[0, 1] == 0


def test_identical_experts_are_equidistant_not_safe():
    with pytest.raises(Undefined) as caught:
        hidden_similarity(np.zeros((3, 3)))
    assert caught.value.reason == "equidistant"


@pytest.mark.parametrize("experts", [1, 2])
def test_needs_three_experts(experts):
    for call in (
        lambda: hidden_similarity(regular(experts)),
        lambda: merging_difficulty(np.ones((experts, experts))),
        lambda: mean_similarity(np.ones((experts, experts))),
        lambda: merging_difficulty_interval([regular(experts)], ["a"]),
    ):
        with pytest.raises(Undefined) as caught:
            call()
        assert caught.value.reason == "needs_three_experts"


@pytest.mark.parametrize("noise", [0.0, 1e-15])
def test_an_expert_unlike_all_others_is_infinitely_difficult(noise):
    d = regular(4)
    d[0, 1:] = d[1:, 0] = [2.0, 2.0, 2.0 - noise]
    d[1, 2] = d[2, 1] = 0.5
    scores = merging_difficulty(hidden_similarity(d))
    assert scores[0] == math.inf
    assert np.isfinite(scores[1:]).all()


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "square"),
        (np.ones(3), "dimension"),
        (np.zeros((0, 0)), "square"),
        (-regular(3), "negative"),
        (np.ones((3, 3)), "diagonal"),
        (np.triu(regular(3)), "symmetric"),
        (np.full((3, 3), np.nan), "NaN"),
        (regular(3, math.inf), "NaN or infinity"),
        ("words", "numbers"),
    ],
)
def test_refuses_what_are_not_distances(matrix, message):
    with pytest.raises(ValueError, match=message):
        hidden_similarity(matrix)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (regular(3), "1 on the diagonal"),
        (2 * np.ones((3, 3)), r"\[0, 1\]"),
        (np.eye(3) * 2 - 1, r"\[0, 1\]"),
        (np.triu(np.ones((3, 3))), "symmetric"),
    ],
)
def test_refuses_what_are_not_similarities(matrix, message):
    with pytest.raises(ValueError, match=message):
        merging_difficulty(matrix)


def naive_interval(per_probe, tasks, resamples, seed):
    """95 % intervals [N, 2], with the quantiles of scipy.stats."""
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(resamples):
        index = []
        for task in sorted(set(tasks)):
            members = [i for i, t in enumerate(tasks) if t == task]
            index += [members[k] for k in rng.integers(0, len(members), len(members))]
        scores.append(naive_difficulty(np.mean([per_probe[i] for i in index], axis=0).tolist()))
    probes = min(tasks.count(task) for task in tasks)
    wider = stats.t(probes - 1).ppf(0.975) / stats.norm.ppf(0.975) * (probes / (probes - 1)) ** 0.5
    wider *= 1.3
    intervals = []
    for score, drawn in zip(
        naive_difficulty(np.mean(per_probe, axis=0).tolist()), np.transpose(scores), strict=True
    ):
        similar = [1 / d for d in drawn]
        low, high = np.quantile(similar, [0.025, 0.975])
        bias = np.mean(similar) - 1 / score
        low = 1 / score - wider * max(1 / score - low, 0.0) - max(bias, 0.0)
        high = 1 / score + wider * max(high - 1 / score, 0.0) + max(-bias, 0.0)
        intervals.append([1 / min(high, 1.0), 1 / low if low > 0 else math.inf])
    return np.array(intervals)


def noisy_probes(rng, experts, probes):
    mean = distances(rng, experts)
    noise = [np.abs(1 + 0.1 * distances(rng, experts)) for _ in range(probes)]
    return np.array([mean * n for n in noise])


def test_interval_agrees_with_loops_over_other_draws():
    rng = np.random.default_rng(0)
    per_probe = noisy_probes(rng, 5, 20)
    tasks = [i % 4 for i in range(20)]
    interval = 1 / merging_difficulty_interval(per_probe, tasks, resamples=4000)
    expected = 1 / naive_interval(per_probe, tasks, 1500, seed=1)
    width = expected[:, 0] - expected[:, 1]
    assert (np.abs(interval - expected) <= 0.05 * width[:, np.newaxis]).all()
    assert ((interval >= 0) & (interval <= 1)).all()


@pytest.mark.parametrize(("experts", "probes", "noise"), [(3, 3, 0.4), (5, 5, 0.1), (8, 10, 0.4)])
def test_interval_covers_what_more_probes_would_say(experts, probes, noise, seed):
    """The percentiles alone cover .78 to .98."""
    rng = np.random.default_rng(seed)
    covered = []
    for _ in range(60):
        mean = distances(rng, experts)
        drawn = np.array(
            [
                mean * np.exp(noise * np.triu(rng.normal(size=mean.shape), 1))
                for _ in range(probes * experts)
            ]
        )
        drawn = np.triu(drawn, 1) + np.triu(drawn, 1).transpose(0, 2, 1)
        tasks = np.repeat(np.arange(experts), probes).tolist()
        interval = merging_difficulty_interval(drawn, tasks, resamples=200, seed=1)
        truth = merging_difficulty(hidden_similarity(mean))
        covered += ((interval[:, 0] <= truth) & (truth <= interval[:, 1])).tolist()
    assert np.mean(covered) >= 0.9


def test_ends_are_rarely_wrong_where_chance_decides_which_pair_is_the_farthest():
    """Each may be wrong 2.5 % of the time; without the margin they are more often."""
    rng, gates, wrong = np.random.default_rng(11), 1000, []
    tasks = np.repeat(np.arange(3), 10).tolist()
    for _ in range(gates):
        mean = np.triu(1 + rng.uniform(-0.07, 0.07, (3, 3)), 1)
        shape = (len(tasks), 3, 3)
        drawn = mean * rng.gamma(4, 1 / 4, shape) * rng.gamma(4, 1 / 4, (len(tasks), 1, 1))
        interval = merging_difficulty_interval(
            drawn + drawn.transpose(0, 2, 1), tasks, resamples=200
        )[0]
        truth = merging_difficulty(hidden_similarity(mean + mean.T))[0]
        wrong.append([truth < interval[0], truth > interval[1]])
    assert (np.mean(wrong, axis=0) <= 0.03).all()


def test_interval_is_stratified_by_task():
    # All noise is between tasks: within a task every probe is the same.
    rng = np.random.default_rng(1)
    per_task = noisy_probes(rng, 4, 3)
    per_probe, tasks = np.repeat(per_task, 5, axis=0), np.repeat(["a", "b", "c"], 5).tolist()
    scores = merging_difficulty(hidden_similarity(per_probe.mean(axis=0)))
    interval = merging_difficulty_interval(per_probe, tasks)
    np.testing.assert_allclose(interval, np.stack([scores, scores], axis=1), rtol=1e-10)
    pooled = merging_difficulty_interval(per_probe, ["one"] * 15)
    assert (pooled[:, 1] - pooled[:, 0] > 1e-3).any()


@given(generators, sizes)
@quick
def test_interval_follows_permutations_of_experts(rng, experts):
    per_probe = noisy_probes(rng, experts, 6)
    tasks = [0, 0, 0, 1, 1, 1]
    order = rng.permutation(experts)
    interval = merging_difficulty_interval(per_probe, tasks, resamples=50, seed=5)
    permuted = merging_difficulty_interval(
        per_probe[:, order][:, :, order], tasks, resamples=50, seed=5
    )
    np.testing.assert_allclose(permuted, interval[order], rtol=1e-9)
    assert (interval[:, 0] <= interval[:, 1]).all()


@pytest.mark.parametrize("noise", [0.0, 1e-10])
def test_interval_counts_equidistant_resamples_as_infinite(noise):
    # The even probes alone (8 of 27 resamples) leave all three equally far apart.
    uneven = regular(3)
    uneven[0, 1] = uneven[1, 0] = 2.0
    uneven[0, 2] = uneven[2, 0] = 3.0
    even = regular(3)
    even[0, 1] = even[1, 0] = 1 + noise
    probes, tasks = [even, even, uneven], ["a"] * 3
    interval = merging_difficulty_interval(probes, tasks)
    assert (interval[:, 1] == math.inf).all()
    scores = merging_difficulty(hidden_similarity(uneven))
    assert (interval[:, 0] <= scores).all()


@pytest.mark.parametrize("tasks", [["a"], ["a", "a"], ["a", "a", "a", "b", "b"]])
def test_no_interval_from_fewer_than_three_probes_of_a_task(tasks, seed):
    probes = np.random.default_rng(seed).random((len(tasks), 3, 3)) + 0.5
    probes = probes + probes.transpose(0, 2, 1)
    probes[:, range(3), range(3)] = 0.0
    with pytest.raises(Undefined) as caught:
        merging_difficulty_interval(probes, tasks)
    assert caught.value.reason == "too_few_probes"


def test_interval_of_a_lone_expert_is_infinite_at_both_ends_not_nan():
    d = regular(4)
    d[0, 1:] = d[1:, 0] = 2.0
    d[1, 2] = d[2, 1] = 0.5
    interval = merging_difficulty_interval([d, d, d], ["a"] * 3)
    assert interval[0].tolist() == [math.inf, math.inf]
    assert np.isfinite(interval[1:]).all()


def test_interval_refuses():
    d = regular(3)
    uneven = regular(3)
    uneven[0, 1] = uneven[1, 0] = 2.0
    with pytest.raises(Undefined) as caught:
        merging_difficulty_interval([d, d], ["a", "a"])
    assert caught.value.reason == "equidistant"
    for per_probe, tasks, options, message in (
        ([uneven], [], {}, "tasks"),
        (np.zeros((0, 3, 3)), [], {}, "probes"),
        ([uneven], ["a"], {"confidence": 0}, "confidence"),
        ([uneven], ["a"], {"resamples": 0}, "resamples"),
        (uneven, ["a"], {}, "dimension"),
        ([np.triu(uneven)], ["a"], {}, "symmetric"),
        ([-uneven], ["a"], {}, "negative"),
    ):
        with pytest.raises(ValueError, match=message):
            merging_difficulty_interval(per_probe, tasks, **options)


@pytest.mark.parametrize(
    ("confidence", "low", "high"), [(0.95, 2, 98), (0.9, 5, 95), (0.5, 25, 75), (0.999, 0, 100)]
)
def test_order_statistics_are_ranked_outwards_and_symmetric(confidence, low, high):
    values = np.random.default_rng(0).permutation(np.arange(101.0))
    ends = order_statistics(values, confidence)
    assert ends[0] in (low, low - 1)
    assert ends[1] == 100 - ends[0]


def test_order_statistics_of_one_value():
    assert order_statistics(np.array([3.0]), 0.95) == (3.0, 3.0)


def test_order_statistics_work_by_column_and_with_infinities():
    values = np.array([[np.inf, 1.0], [np.inf, 2.0], [0.0, 3.0]])
    low, high = order_statistics(values, 0.95)
    assert low.tolist() == [0.0, 1.0]
    assert high.tolist() == [np.inf, 3.0]
