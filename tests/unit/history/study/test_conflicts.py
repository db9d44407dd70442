"""Table 4 and the Mantel test beside it."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import pearsonr
from unit.history.registry.making import made

from pytest_mergegate.history.study.conflicts import (
    correlations,
    mantel_table,
    pair_matrices,
    table_4,
)
from pytest_mergegate.history.study.points import points_of

from .making import drawn_bed


def test_matrices_of_pairs() -> None:
    scores = {name: {"cosine": 0.5} for name in "ab"}
    lines = [
        made("ab", losses={"a": -10.0, "b": -30.0}, scores=scores),
        made("bc", losses={"b": None, "c": -1.0}, scores={name: {"cosine": 0.1} for name in "bc"}),
        made("abc", losses={"a": -99.0}),
    ]
    names, values, losses = pair_matrices(points_of("bed", lines), "cosine")
    assert names == ["a", "b", "c"]
    assert values[0, 1] == values[1, 0] == 0.5
    assert losses[0, 1] == -20  # the mean of the two, and nothing of the pool of three
    assert values[1, 2] == 0.1
    assert math.isnan(losses[1, 2])  # one of the two is not known
    assert math.isnan(values[0, 2])


def test_correlation_is_scipys_over_the_pairs() -> None:
    bed = drawn_bed("drawn", seed=3)
    points = points_of(bed.name, bed.lines)
    found = correlations(points, permutations=99)
    of = [p for p in points if p.method == "linear" and p.size == 2]
    pairs = [of[k : k + 2] for k in range(0, len(of), 2)]
    x = [pair[0].expert.scores["cosine"] for pair in pairs]
    y = [(pair[0].loss + pair[1].loss) / 2 for pair in pairs]
    expected = pearsonr(np.array(x, dtype=float), y)
    one = found["linear", "cosine"]
    assert one.pairs == 28
    assert one.r == pytest.approx(expected.statistic)
    assert one.p == pytest.approx(expected.pvalue)
    assert len(table_4("drawn", found).rows) == 4
    assert mantel_table("drawn", found).rows[0][1] == 28


def test_what_costs_is_found() -> None:
    """The closer two letters, the less is lost."""
    lines = []
    for a, b in combinations("abcdefgh", 2):
        apart = abs(ord(a) - ord(b)) / 8
        losses = dict.fromkeys((a, b), -100 * apart)
        scores = {name: {"mean_distance": apart, "cosine": 0.5} for name in (a, b)}
        lines.append(made(a + b, losses=losses, scores=scores))
    found = correlations(points_of("bed", lines))
    assert found["linear", "mean_distance"].r == pytest.approx(-1)
    assert found["linear", "mean_distance"].mantel_p < 0.01
    assert ("linear", "cosine") not in found  # it does not vary
    assert "(-)" in str(table_4("bed", found).rows[0][-1])


def test_too_few_pairs_have_a_word() -> None:
    table = table_4("bed", correlations(points_of("bed", [made("ab"), made("abc")])))
    assert not table.rows
    assert "Fewer than four pairs" in table.notes[0]
