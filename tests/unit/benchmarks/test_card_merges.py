"""What the validation card says of whole merges, against loops over the recorded lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from unit.history.registry.making import made
from unit.history.study.making import drawn_bed

from pytest_mergegate.history.beds import Bed
from pytest_mergegate.metrics import disagreement_interval

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from card.beds import evidence
from card.merges import few_text, merge_errors, merges_of, point_errors, short_lines
from card.rates import Errors, Rate, errors_of, precision, precision_range, rate_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from card.beds import Evidence

    from pytest_mergegate.history.registry.lines import RegistryLine


@pytest.fixture
def beds(seed: int) -> list[Bed]:
    return [
        drawn_bed("one", letters="abcdefg", seed=seed, groups=4),
        drawn_bed("two", letters="abcde", seed=seed + 1, groups=3),
    ]


def of_lines(lines: Iterable[RegistryLine]) -> Evidence:
    return evidence([Bed(name="x", about={}, lines=tuple(lines))])


def test_a_merge_is_judged_by_its_worst_expert(beds: list[Bed]) -> None:
    every = merges_of(evidence(beds).every)
    for size in (None, 2, 4, 5, 7):
        clean = false = lossful = missed = 0
        for line in (line for bed in beds for line in bed.lines):
            if size in (None, len(line.experts)):
                alarm = collapse = False
                for expert in line.experts:
                    assert expert.loss is not None
                    alarm = alarm or expert.scores["disagreement"] > 0.3
                    collapse = collapse or expert.loss < -30
                clean += not collapse
                false += alarm and not collapse
                lossful += collapse
                missed += collapse and not alarm
        errors = merge_errors([one for one in every if size in (None, one.size)])
        for rate, count, of in ((errors.false, false, clean), (errors.missed, missed, lossful)):
            assert (rate is None) == (of == 0)
            assert rate is None or (rate.count, rate.of) == (count, of)


def test_a_merge_with_an_unknown_loss_is_neither_clean_nor_lossful() -> None:
    close = {"disagreement": 0.25}
    lines = [
        made("ab", losses={"a": -1.0, "b": None}),
        made("ac", losses={"a": -1.0, "c": -30.0}),
        made("bc", losses={"b": -1.0, "c": -30.5}, scores={"b": {"disagreement": 0.5}, "c": {}}),
        made("bd", losses={"b": -1.0, "d": -31.0}, scores={"b": close, "d": close}),
    ]
    found = merges_of(of_lines(lines).every)
    assert [(one.lossful, one.alarm) for one in found] == [(False, False), (True, False)]


def test_errors_of_points_are_those_of_experts(beds: list[Bed]) -> None:
    counts = dict.fromkeys(((a, b) for a in (True, False) for b in (True, False)), 0)
    for bed in beds:
        for line in bed.lines:
            for expert in line.experts:
                assert expert.loss is not None
                counts[expert.scores["disagreement"] > 0.3, expert.loss < -30] += 1
    errors = point_errors(evidence(beds).every)
    for rate, wrong, right in (
        (errors.false, counts[True, False], counts[False, False]),
        (errors.missed, counts[False, True], counts[True, True]),
    ):
        assert rate is None or (rate.count, rate.of) == (wrong, wrong + right)


def test_the_interval_has_the_wider_ends(seed: int) -> None:
    rng = np.random.default_rng(seed)
    which = rng.random(60) < rng.uniform(0.1, 0.9)
    pools = [f"pool {k}" for k in rng.integers(0, 9, 60)]
    names, drawn, again = list(dict.fromkeys(pools)), [], np.random.default_rng(0)
    for _ in range(1000):
        times = again.multinomial(len(names), np.full(len(names), 1 / len(names)))
        taken: list[bool] = []
        for name, count in zip(names, times, strict=True):
            taken += [one for one, pool in zip(which, pools, strict=True) if pool == name] * count
        drawn.append(sum(taken) / len(taken))
    exact = disagreement_interval(int(which.sum()), 60)
    low, high = np.quantile(drawn, (0.025, 0.975))
    rate = rate_of(which, pools)
    assert rate is not None
    assert rate.interval == pytest.approx((min(exact[0], low), max(exact[1], high)))


def test_of_few_pools_there_is_no_interval(seed: int) -> None:
    which = np.random.default_rng(seed).random(60) < 0.5
    rate = rate_of(which, ["a", "b", "c", "d"] * 15)
    assert rate is not None
    assert rate.interval is None
    assert rate.shown() == f"{which.sum()} of 60"
    assert rate_of(which[:0], []) is None


def test_at_the_samples_own_base_rate_precision_is_the_samples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bad, pools = rng.random(200) < 0.5, [f"{k % 20}" for k in range(200)]
    raised = np.where(bad, rng.random(200) < 0.8, rng.random(200) < 0.3)
    shares = precision_range(errors_of(raised, bad, pools), float(bad.mean()))
    assert shares is not None
    point, worse, better = shares
    true = sum(a and b for a, b in zip(raised, bad, strict=True)) / sum(raised)
    assert point == pytest.approx(true)
    assert worse is not None
    assert better is not None
    assert worse < true < better


def test_precision_at_another_base_rate() -> None:
    # of 1000, 50 are bad: 40 of them are caught, and 95 of the others raise an alarm
    assert precision(0.8, 0.1, 0.05) == pytest.approx(40 / (40 + 95))
    assert precision(0.0, 0.0, 0.2) is None
    half = Rate(count=1, of=2, interval=None)
    assert precision_range(Errors(false=None, missed=half), 0.2) is None
    assert precision_range(Errors(false=half, missed=half), 0.5) == (0.5,)


def test_few_large_pools_are_told() -> None:
    pairs = [made("ab", f"m{k}") for k in range(20)]
    bad = made("abcdefgh", losses={"a": -50.0})
    assert few_text(of_lines([*pairs, made("abcd"), bad])) == (
        "Only 1 of 21 clean merges have more than two experts (1 of 4, 0 of 8): "
        "of false alarms in larger pools little is known."
    )
    half = few_text(of_lines([pairs[0], made("abcd")]))
    assert half == "1 of 2 clean merges have more than two experts (1 of 4)."


def test_what_is_not_known_is_not_told() -> None:
    (line,) = short_lines(of_lines([made("ab")]))  # nothing collapsed: nothing could be missed
    assert "0 of 1 clean merges" in line
