"""Table 4, the Mantel test beside it, and Figure 1."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import pearsonr
from unit.history.registry.making import made

from pytest_mergegate.history.study.losses import points_of
from pytest_mergegate.history.study.pairs import (
    correlations,
    figure_html,
    figure_text,
    grids_of,
    mantel_table,
    pair_matrices,
    table_4,
)

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


def test_similarity_is_1_for_the_pair_most_alike() -> None:
    bed = drawn_bed("drawn")
    grids = grids_of("drawn", points_of(bed.name, bed.lines))
    assert [grid.title for grid in grids[:2]] == ["drawn: hidden similarity", "drawn: loss, linear"]
    assert len(grids) == 5
    similar = grids[0].values[np.triu_indices(8, 1)]
    assert (similar.min(), similar.max()) == (0, 1)
    assert grids[1].values[np.triu_indices(8, 1)].min() >= -100


def test_sixty_experts_are_drawn_as_far_as_there_is_room() -> None:
    names = [chr(0x4E00 + k) for k in range(60)]
    lines = []
    for a, b in combinations(range(60), 2):
        scores = {names[k]: {"mean_distance": (a + b) / 120} for k in (a, b)}
        lines.append(made(names[a] + names[b], scores=scores))
    grids = grids_of("bed", points_of("bed", lines))
    shown = figure_text(grids, 70).splitlines()
    assert "10 experts found no room" in shown[2]
    assert max(map(len, shown)) <= 70
    assert len(figure_text(grids, 200).splitlines()) == 2 + 2 * 61


@pytest.mark.parametrize("width", [60, 80, 120])
def test_characters(width: int) -> None:
    bed = drawn_bed("drawn", letters="abcdefghijkl")
    shown = figure_text(grids_of("drawn", points_of(bed.name, bed.lines)), width)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= width
    assert "█" in shown
    assert len(lines) == (2 + 12 if width >= 76 else 2 + 2 * 13)


def test_too_few_pairs_for_a_figure_have_a_word() -> None:
    assert "takes three experts" in figure_text(grids_of("bed", points_of("bed", [made("ab")])), 80)
    assert "No pairs" in figure_html([])


def test_pairs_that_were_not_merged_are_unknown() -> None:
    scores = {name: {"mean_distance": k / 9} for k, name in enumerate("abcd")}
    lines = [made(pair, scores=scores) for pair in ("ab", "bc", "cd")]
    grids = grids_of("bed", points_of("bed", lines))
    assert "??" in figure_text(grids, 80)
    assert "nan" not in figure_html(grids)


def test_hostile_names_stay_names() -> None:
    names = ("<script>alert(1)</script>", "a|b\n%", "c&d")
    lines = []
    for a, b in ((0, 1), (1, 2), (0, 2)):
        line = made("xy", scores={n: {"mean_distance": (a + b) / 3} for n in "xy"})
        experts = [
            expert.model_copy(update={"name": names[k], "fingerprint": str(k)})
            for expert, k in zip(line.experts, (a, b), strict=True)
        ]
        lines.append(line.model_copy(update={"experts": tuple(experts)}))
    grids = grids_of("<b>bed</b>", points_of("bed", lines))
    page = figure_html(grids)
    assert "<script" not in page
    assert "<b>bed" not in page
    assert "&lt;script&gt;" in page
    assert figure_text(grids, 80).count("\n") == 2 + 3
