"""The cluster bootstrap and the Mantel test, against what they must agree with."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from pytest_mergegate.metrics.ranking import auroc
from pytest_mergegate.metrics.resampling import cluster_interval, mantel


def weighted_mean(values: Any) -> Any:
    return lambda times: float(times @ values / times.sum())


def test_of_single_points_it_is_the_interval_of_the_mean(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=400)
    low, high = cluster_interval(weighted_mean(values), range(400))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_one_way_it_is_the_bootstrap_over_pools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bad = np.r_[True, False, rng.random(98) < 0.5]
    scores, pools = rng.normal(size=100) + bad, [f"pool {k % 20}" for k in range(100)]
    found = cluster_interval(lambda times: auroc(scores, bad, times), pools)
    naive = []
    for _ in range(2000):
        drawn = np.concatenate([np.arange(k, 100, 20) for k in rng.integers(20, size=20)])
        naive.append(auroc(scores[drawn], bad[drawn]))
    assert found == pytest.approx(np.quantile(naive, (0.025, 0.975)), abs=0.03)


def test_interval_resamples_pools_whole(seed: int) -> None:
    """Every point a hundred times over says no more than once, if its copies share its pool."""
    rng = np.random.default_rng(seed)
    bad = np.r_[True, False, rng.random(38) < 0.5]
    scores, pools = rng.normal(size=40) + bad, [f"pool {k % 20}" for k in range(40)]

    def interval(values: Any, kinds: Any, clusters: list[str]) -> tuple[float, float]:
        return cluster_interval(lambda times: auroc(values, kinds, times), clusters)

    once = interval(scores, bad, pools)
    often = interval(np.tile(scores, 100), np.tile(bad, 100), pools * 100)
    assert often == pytest.approx(once)
    assert once[0] < auroc(scores, bad) < once[1]


def test_what_comes_and_goes_together_counts_as_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=10)
    values, experts = np.repeat(effects, 40), np.repeat(np.arange(10), 40)
    pools = np.tile(np.arange(40), 10)
    alone = cluster_interval(weighted_mean(values), pools.tolist())
    clustered = cluster_interval(weighted_mean(values), experts.tolist())
    both = cluster_interval(weighted_mean(values), pools.tolist(), experts.tolist())
    assert alone[1] - alone[0] < 1e-9  # every pool has every expert: nothing varies between them
    assert clustered[1] - clustered[0] > effects.std() / 3
    assert both == pytest.approx(clustered, abs=0.1)


def test_resamples_without_a_statistic_are_left_out() -> None:
    bad = np.array([True, False])
    assert cluster_interval(lambda t: auroc([2, 1], bad, t), ["a", "b"]) == (1, 1)
    nothing = cluster_interval(lambda t: float("nan"), ["a", "b"])
    assert np.isnan(nothing).all()
    with pytest.raises(ValueError, match="one length"):
        cluster_interval(lambda t: 0.0, ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="one length"):
        cluster_interval(lambda t: 0.0)


def symmetric(rng: np.random.Generator, size: int) -> Any:
    drawn = rng.normal(size=(size, size))
    return drawn + drawn.T


def test_mantel_is_the_exact_one_over_all_relabellings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = symmetric(rng, 6), symmetric(rng, 6)
    upper = np.triu_indices(6, 1)
    every = [
        np.corrcoef(a[upper], b[np.ix_(order, order)][upper])[0, 1]
        for order in permutations(range(6))
    ]
    found = mantel(a, b)
    assert found.r == pytest.approx(every[0])
    assert found.pairs == 15
    exact = np.mean(np.abs(every) >= abs(every[0]) - 1e-12)
    assert found.p == pytest.approx(exact, abs=0.02)


def test_mantel_keeps_its_level_where_pairs_are_not_independent() -> None:
    """Distances of points on a line: Pearson's p, which takes pairs for independent, does not."""
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(200):
        a, b = (np.abs(np.subtract.outer(x, x)) for x in rng.normal(size=(2, 8)))
        rejected += mantel(a, b, permutations=199).p <= 0.05
    assert rejected <= 20


def test_mantel_with_pairs_that_are_not_known(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = symmetric(rng, 9)
    b, holes = 2 * a + 1, rng.random((9, 9)) < 0.1
    b[holes | holes.T] = np.nan
    found = mantel(a, b, permutations=499)
    assert found.r == pytest.approx(1)
    assert found.p == 1 / 500
    assert found.pairs == int((~np.isnan(b[np.triu_indices(9, 1)])).sum())


def test_mantel_keeps_its_level_where_pairs_are_missing() -> None:
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(200):
        a, b = (np.abs(np.subtract.outer(x, x)) for x in rng.normal(size=(2, 9)))
        holes = np.triu(rng.random((9, 9)) < 0.4)
        a[holes | holes.T] = b[holes | holes.T] = np.nan  # neither is known of what was not merged
        rejected += mantel(a, b, permutations=199).p <= 0.05
    assert 1 <= rejected <= 20


def test_mantel_refuses_what_has_no_answer() -> None:
    for a, b in ((np.eye(2), np.eye(2)), (np.eye(3), np.eye(4)), (np.ones((4, 4)), np.eye(4))):
        with pytest.raises(ValueError, match="needed"):
            mantel(a, b)
