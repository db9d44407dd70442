"""Losses that are predicted: monotone, within their intervals, and open where nothing is known."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mergegate.history.calibration.fit import (
    Calibration,
    calibrate,
    folds,
    grouping,
    merges_needed,
)
from pytest_mergegate.history.calibration.performance import validate
from pytest_mergegate.metrics import Undefined

from .making import merges_of, observed, world

GRID = np.linspace(-0.1, 1.2, 60).tolist()


def curves(fitted: Calibration, method: str, expert: str) -> tuple[list[float], ...]:
    told = [fitted.predict(method, expert, score) for score in GRID]
    return tuple([getattr(t, end) for t in told] for end in ("loss", "low", "high"))


@given(st.integers(0, 10_000), st.integers(6, 30))
@settings(max_examples=15, deadline=None)
def test_more_disagreement_never_foretells_a_smaller_loss(seed: int, pools: int) -> None:
    found = world(seed, pools)
    fitted = calibrate(found)
    for method, expert in (("", ""), (found[0].label, found[0].expert)):
        loss, low, high = curves(fitted, method, expert)
        assert all(a >= b for a, b in pairwise(loss))
        assert all(
            -100 <= bottom <= at <= top for bottom, at, top in zip(low, loss, high, strict=True)
        )


def test_intervals_cover_what_they_say_in_pools_that_were_not_seen() -> None:
    for confidence in (0.8, 0.9):
        held = []
        for seed in range(8):
            found = world(seed, 60)
            seen = [one for one in found if int(one.pool) < 40]
            fitted = calibrate(seen, confidence=confidence)
            for one in found[len(seen) :]:
                told = fitted.predict(one.label, one.expert, one.scores["disagreement"])
                held.append(told.low <= one.loss <= told.high)
        assert confidence - 0.03 <= np.mean(held) <= confidence + 0.12


def test_validation_says_the_same() -> None:
    found = validate(world(3, 40))
    assert found.groups == "pools"
    assert 0.85 <= found.coverage <= 0.97
    assert found.error < found.constant_error / 3
    with pytest.raises(Undefined, match="needs 9 recorded merges"):
        validate([observed(str(k), "a", k / 9, -10.0 * k) for k in range(9)])


def test_intervals_are_narrow_where_losses_are_and_wide_for_strangers() -> None:
    found = world(1, 60)
    fitted = calibrate(found)

    def width(method: str, expert: str, score: float) -> float:
        told = fitted.predict(method, expert, score)
        return told.high - told.low

    assert width("", "", 0.0) < width("", "", 0.5) / 2
    assert width(found[0].label, found[0].expert, 0.5) < width("", "", 0.5)


def test_an_expert_that_always_fared_worse_is_expected_to() -> None:
    found = world(2, 60)
    hurt = [
        observed(o.merge, o.expert, o.scores["disagreement"], max(-100, o.loss - 15), label=o.label)
        if o.expert == "expert 0" and o.scores["disagreement"] > 0.1
        else o
        for o in found
    ]
    before, after = (calibrate(each).predict("linear", "expert 0", 0.5) for each in (found, hurt))
    assert after.loss < before.loss - 5


class TestNothingIsPromisedWhereNothingIsKnown:
    def test_beyond_what_was_recorded(self) -> None:
        kept = [observed(f"{k}", f"e{i}", 0.01 * i, -0.1 * i) for k in range(20) for i in range(5)]
        fitted = calibrate(kept)
        assert fitted.predict("linear", "e1", 0.02).low > -5
        for score in (0.05, 0.3, 1.0, math.inf):
            assert fitted.predict("linear", "e1", score).low == -100

    def test_not_beyond_what_was_recorded_is_the_same_score_with_more_digits(self) -> None:
        found = [observed(f"{k}", "e", s, -30.0 * s) for k in range(20) for s in (0.0, 0.333333)]
        assert calibrate(found).predict("linear", "e", 1 / 3).low > -20
        lost = [observed(f"{k}", "e", s, -90.0 * s) for k in range(20) for s in (0.666667, 1.0)]
        assert calibrate(lost).predict("linear", "e", 2 / 3).high < -40

    def test_between_the_harmless_and_the_lost(self) -> None:
        found = [observed(f"{k}", f"e{s}", float(s), -100.0 * s) for k in range(20) for s in (0, 1)]
        told = calibrate(found).predict("linear", "new", 0.5)
        assert told.low <= -99
        assert told.high >= -1

    def test_short_of_what_was_recorded_only_a_collapse_is_not_certain(self) -> None:
        lost = [observed(f"{k}", "e", 0.9 + k / 200, -95.0) for k in range(20)]
        assert calibrate(lost).predict("linear", "e", 0.1).high >= 0

    def test_one_mild_case_is_no_evidence(self) -> None:
        found = [observed(f"{k}", "e", 0.0, 0.0) for k in range(30)]
        found.append(observed("x", "e", 0.6, -5.0))
        assert calibrate(found).predict("linear", "e", 0.6).low == -100

    @pytest.mark.parametrize(("confidence", "needed"), [(0.9, 9), (0.95, 19), (0.5, 2), (0.8, 4)])
    def test_too_few_merges(self, confidence: float, needed: int) -> None:
        assert merges_needed(confidence) == needed
        found = [observed(f"{k}", f"e{i}", 0.1, -9.0) for k in range(needed - 1) for i in range(9)]
        with pytest.raises(Undefined, match=f"needs {needed} recorded merges") as caught:
            calibrate(found, confidence=confidence)
        assert caught.value.reason == "needs_more_merges"
        found.append(observed("last", "e", 0.2, -20.0))
        assert calibrate(found, confidence=confidence).merges == needed

    def test_merges_without_the_score_do_not_count(self) -> None:
        found = world(0, 20)
        with pytest.raises(Undefined, match="there are 0"):
            calibrate(found, "surrogate")


def test_infinite_scores_and_those_of_which_less_is_riskier() -> None:
    rng = np.random.default_rng(0)
    found = []
    for k in range(40):
        mds = float(rng.uniform(1, 4)) if k % 4 else math.inf
        loss = -20 * min(mds, 5) + float(rng.normal())
        scores = {"mds": mds, "cosine": 1 - min(mds, 5) / 5}
        found.append(observed(f"{k}", "e", 0.0, loss, scores=scores))
    mds, cosine = calibrate(found, "mds"), calibrate(found, "cosine")
    assert mds.predict("linear", "e", math.inf).loss < mds.predict("linear", "e", 3.0).loss
    assert cosine.predict("linear", "e", 0.1).loss < cosine.predict("linear", "e", 0.7).loss
    for fitted in (mds, cosine):
        json.dumps(asdict(fitted), allow_nan=False)
        with pytest.raises(ValueError, match="must be a number"):
            fitted.predict("linear", "e", math.nan)


def test_what_is_left_out_together() -> None:
    few, many = world(0, 5), world(0, 15)
    beds = world(0, 3, bed="x") + world(1, 3, bed="y")
    assert [grouping(each) for each in (few, many, beds)] == ["merges", "pools", "beds"]
    for found in (few, many, beds):
        groups = grouping(found)
        out = np.array(folds(found, groups))
        assert (out.sum(axis=0) == 1).all()
        for fold in out:
            inside, outside = (
                {getattr(o, groups[:-1]) for o, f in zip(found, fold, strict=True) if f == side}
                for side in (True, False)
            )
            assert inside
            assert not inside & outside
    assert calibrate(few).source == "registry"
    assert calibrate(beds).source == "beds"
    assert calibrate(few).predict("", "", 0.1).merges == len(merges_of(few))


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, math.nan])
def test_levels_that_are_none(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        calibrate(world(0, 20), confidence=confidence)


def test_the_same_whatever_the_order() -> None:
    found = world(5, 20)
    one, other = calibrate(found), calibrate(found[::-1])
    assert one.predict("linear", "expert 1", 0.4).low == pytest.approx(
        other.predict("linear", "expert 1", 0.4).low
    )


def test_losses_that_are_all_the_same() -> None:
    found = [observed(f"{k}", "e", 0.2, -7.0) for k in range(12)]
    told = calibrate(found).predict("linear", "e", 0.2)
    assert told.loss == pytest.approx(-7)
    assert told.low <= -7 <= told.high
