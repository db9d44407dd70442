"""The benchmark that validates the certificate, on four of the quickstart's experts."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
sys.path.append(str(ROOT / "benchmarks"))

from points import COLLAPSE, Point, gate_all, groups_of, is_worse, pairs_of, write_csv  # noqa: E402
from scores import SCORES, collapsed, ranking  # noqa: E402
from validation_page import page  # noqa: E402

from pytest_mergegate.metrics.ranking import auroc, auroc_interval, rates  # noqa: E402

EXPERTS = ("rotate_upper", "first_last", "reverse_upper", "reverse_shout")


def naive_auroc(scores: Any, bad: Any, weights: Any) -> float:
    """Pair by pair."""
    won = total = 0.0
    for score, lost, weight in zip(scores, bad, weights, strict=True):
        for other, other_lost, other_weight in zip(scores, bad, weights, strict=True):
            if lost and not other_lost:
                total += weight * other_weight
                won += weight * other_weight * ((score > other) + (score == other) / 2)
    return won / total


@pytest.mark.parametrize("values", [3, 10, 10**9], ids=["many ties", "some ties", "no ties"])
def test_auroc_is_the_naive_one(seed: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, values, 60) / 7
    bad = np.r_[True, False, rng.random(58) < 0.3]
    weights = np.r_[1, 1, rng.integers(0, 4, 58)]
    ones = np.ones(60)
    assert auroc(scores, bad) == pytest.approx(naive_auroc(scores, bad, ones))
    assert auroc(scores, bad, weights) == pytest.approx(naive_auroc(scores, bad, weights))
    repeated = auroc(np.repeat(scores, weights), np.repeat(bad, weights))
    assert auroc(scores, bad, weights) == pytest.approx(repeated)
    won = mannwhitneyu(scores[bad], scores[~bad]).statistic
    assert auroc(scores, bad) == pytest.approx(won / (bad.sum() * (~bad).sum()))


def test_auroc_at_its_ends() -> None:
    assert auroc([1, 2, 3], [False, False, True]) == 1
    assert auroc([3, 2, 1], [False, False, True]) == 0
    assert auroc([1, 1, 1], [False, False, True]) == 0.5
    assert auroc([float("inf"), 1], [True, False]) == 1
    assert np.isnan(auroc([1, 2], [True, True]))


def test_interval_resamples_pools_whole(seed: int) -> None:
    """Every point a hundred times over says no more than once, if its copies share its pool."""
    rng = np.random.default_rng(seed)
    bad = np.r_[True, False, rng.random(38) < 0.5]
    scores, pools = rng.normal(size=40) + bad, [f"pool {k % 20}" for k in range(40)]
    once = auroc_interval(scores, bad, pools)
    often = auroc_interval(np.tile(scores, 100), np.tile(bad, 100), pools * 100)
    assert often == pytest.approx(once)
    assert once[0] < auroc(scores, bad) < once[1]


def test_a_loss_at_the_limit_is_no_collapse() -> None:
    lost = (0.7 / 1.0 - 1) * 100
    assert lost < COLLAPSE  # in floating point
    assert not is_worse(lost, COLLAPSE)
    assert is_worse(-31.0, COLLAPSE)


def test_rates() -> None:
    assert rates([True, True, False, True], [True, True, True, False]) == (2 / 3, 1)
    assert np.isnan(rates([True], [True])[1])


def test_groups_are_seeded_and_all_different() -> None:
    names = [f"e{k}" for k in range(13)]
    groups = groups_of(names, 14, seed=7)
    assert groups == groups_of(names, 14, seed=7) != groups_of(names, 14, seed=8)
    assert len(set(groups)) == 14
    assert {len(group) for group in groups} == set(range(3, 9))
    assert len(pairs_of(names)) == 78


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> list[Point]:
    """Every pair, and all four; each task's examples halved."""
    bed = tmp_path_factory.mktemp("bed")
    shutil.copytree(QUICKSTART / "base", bed / "base")
    for part, chosen in (("data", slice(50)), ("fresh", slice(50, None))):
        (bed / part).mkdir()
        for name in EXPERTS:
            lines = (QUICKSTART / "data" / f"{name}.jsonl").read_text().splitlines()[chosen]
            (bed / part / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for name in EXPERTS:
        shutil.copytree(QUICKSTART / "adapters" / name, bed / "adapters" / name)
    methods = ("linear", {"method": "task_arithmetic", "weight": 1.0})
    points, seconds = gate_all(bed, [*pairs_of(EXPERTS), EXPERTS], methods, lambda line: None)
    assert seconds > 0
    return points


@pytest.mark.slow
def test_disagreement_separates_what_collapsed(gated: list[Point]) -> None:
    points = gated
    assert len(points) == (6 * 2 + 4) * 2
    bad = collapsed(points)
    assert 3 <= bad.sum() <= len(points) - 3
    for score in SCORES[:3]:
        found = ranking(score, points)
        assert found is not None
        low, high = found.interval
        assert found.auroc >= 0.95
        assert low <= found.auroc <= high
    assert all(point.loss >= point.certified for point in points)


@pytest.mark.slow
def test_points_hold_what_the_reports_say(gated: list[Point]) -> None:
    shout = next(p for p in gated if p.size == 4 and p.expert == "reverse_shout")
    assert shout.method == "linear"
    assert shout.fresh_loss == shout.loss == -100
    assert shout.certified == -100
    assert shout.mds is not None
    assert all(p.mds is None for p in gated if p.size == 2)
    assert all(0 < p.distance < 2 and abs(p.cosine) < 1 for p in gated)
    assert all(p.states is not None and p.states_kl is not None for p in gated)


@pytest.mark.slow
def test_page_and_file_hold_every_point(gated: list[Point], tmp_path: Path) -> None:
    write_csv(gated, tmp_path / "points.csv")
    with (tmp_path / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(gated)
    losses = [is_worse(float(row["fresh_loss"]), COLLAPSE) for row in rows]
    assert losses == list(collapsed(gated))
    experts = {name: {"seed": k, "score": 1.0, "base": 0.0} for k, name in enumerate(EXPERTS)}
    bed = {"experts": experts, "base": {"seed": 0}, "recipe": {"words_seed": 1}, "seconds": 1}
    run = {"seconds": 1, "cores": 1, "seed": 7, "sizes": [4]}
    text = page("a command", bed, {"all": EXPERTS}, gated, run)
    assert "Written by `a command`" in text
    assert "32 points" in text
    assert all(f"`{name}`" in text for name in EXPERTS)
    assert "nan" not in text
