"""Thresholds miss no more than they may; how well scores did is told without peeking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mergegate.history.calibration.performance import miss_controlled, performance
from pytest_mergegate.history.calibration.summary import Missing, summarise
from pytest_mergegate.metrics import Undefined

from .making import observed, world


def collapses(scores: list[float], name: str = "disagreement") -> list:  # type: ignore[type-arg]
    return [observed(f"{k}/l", "e", 0, -80.0, scores={name: s}) for k, s in enumerate(scores)]


class TestThreshold:
    def test_the_rank_among_the_collapses_alone(self) -> None:
        found = collapses([k / 20 for k in range(1, 20)])
        found += [observed(f"{k}/k", "e", 0.0, -29.0) for k in range(50)]
        at = miss_controlled(found, "disagreement", 0.1)
        assert (at.value, at.rank, at.collapses) == (0.1, 2, 19)
        assert at.blocks(0.1)
        assert at.blocks(math.nan)
        assert not at.blocks(0.09)

    def test_less_may_be_riskier(self) -> None:
        at = miss_controlled(collapses([k / 20 for k in range(1, 20)], "cosine"), "cosine", 0.1)
        assert at.value == pytest.approx(0.9)
        assert at.blocks(0.9)
        assert at.blocks(-0.5)
        assert not at.blocks(0.91)

    def test_recorded_with_six_digits_it_still_blocks_what_it_was_recorded_of(self) -> None:
        at = miss_controlled(collapses([0.666667] * 9), "disagreement", 0.1)
        assert at.blocks(2 / 3)
        assert not at.blocks(0.6666)
        turned = miss_controlled(collapses([0.333333] * 9, "cosine"), "cosine", 0.1)
        assert turned.blocks(1 / 3)

    def test_an_infinite_one_blocks_only_the_infinite(self) -> None:
        at = miss_controlled(collapses([math.inf] * 9, "mds"), "mds", 0.1)
        assert at.value == math.inf
        assert at.blocks(math.inf)
        assert not at.blocks(1e9)

    def test_too_few(self) -> None:
        with pytest.raises(Undefined, match=r"needs k ≥ 9 collapses .* 8 recorded") as caught:
            miss_controlled(collapses([0.5] * 8), "disagreement", 0.1)
        assert caught.value.reason == "needs_more_collapses"
        with pytest.raises(Undefined):
            miss_controlled([], "mds", 0.1)

    @given(st.integers(0, 1000), st.integers(1, 99))
    @settings(max_examples=40, deadline=None)
    def test_misses_of_the_recorded_are_below_the_rate(self, seed: int, percent: int) -> None:
        found = world(seed, 12)
        lost = [one for one in found if one.collapsed]
        try:
            at = miss_controlled(found, "disagreement", percent / 100)
        except Undefined:
            assert len({one.pool for one in lost}) < math.ceil(100 / percent) - 1 or not lost
            return
        missed = {one.pool for one in lost if not at.blocks(one.scores["disagreement"])}
        assert len(missed) <= percent / 100 * (at.pools + 1)


class TestPerformance:
    def test_a_score_that_tells_and_one_that_does_not(self) -> None:
        rng = np.random.default_rng(0)
        found = [
            observed(
                f"{k % 20}/{k}",
                "e",
                0,
                -80.0 if k % 2 else -1.0,
                scores={
                    "disagreement": 0.9 if k % 2 else 0.1,
                    "kl": float(rng.random()),
                    "cosine": 0.1 if k % 2 else 0.9,
                },
            )
            for k in range(200)
        ]
        sure, blind, turned = (performance(found, n) for n in ("disagreement", "kl", "cosine"))
        for each in (sure, turned):
            assert (each.auroc.value, each.auprc.value, each.base_rate) == (1, 1, 0.5)
            assert each.controlled is not None
            assert (each.controlled.recall.value, each.controlled.false_alarms.value) == (1, 0)
            low, high = each.controlled.recall.interval or (0, 0)
            assert 0.9 < low < 1 == high
        assert sure.limit is not None
        assert turned.limit is None
        low, high = blind.auroc.interval or (0, 0)
        assert low < 0.5 < high
        assert blind.controlled is not None
        assert blind.controlled.false_alarms.value > 0.8

    def test_thresholds_do_not_see_the_pool_that_they_judge(self) -> None:
        found = [observed(f"{k}/l", "e", 0.9, -80.0) for k in range(20)]
        found += [observed("odd/l", f"e{k}", 0.0, -80.0) for k in range(20)]
        found += [observed("good/l", f"g{k}", 0.5, 0.0) for k in range(20)]
        told = performance(found, "disagreement", miss_rate=0.4).controlled
        assert told is not None
        assert told.recall.value == 0.5  # none of the odd pool, whose collapses others do not know

    def test_what_cannot_be_told(self) -> None:
        found = world(0, 8)
        with pytest.raises(Undefined, match="no recorded merge has kl"):
            performance(found, "kl")
        with pytest.raises(Undefined, match="none of the"):
            performance([o for o in found if not o.collapsed], "disagreement")
        few = performance(found[:16], "disagreement", miss_rate=0.01)
        assert few.controlled is None
        assert "collapses" in (few.controlled_reason or "")
        assert few.auroc.interval is None  # of two pools


def test_a_summary_of_nothing_says_so() -> None:
    found = summarise([], ("disagreement", "mds"), with_performance=True)
    assert found.says_nothing
    assert isinstance(found.calibration, Missing)
    assert found.plain()["calibration"]["reason"] == "needs_more_merges"


def test_infinite_thresholds_in_json() -> None:
    found = summarise(collapses([math.inf] * 9, "mds"), ("mds",)).plain()["thresholds"]["mds"]
    assert (found["value"], found["value_infinite"]) == (None, True)
