"""Figure 1."""

from __future__ import annotations

import numpy as np
import pytest
from unit.registry.making import made

from pytest_mergegate.study.figure import figure_html, figure_text, grids_of
from pytest_mergegate.study.points import points_of

from .making import drawn_bed


def test_similarity_is_1_for_the_pair_most_alike() -> None:
    bed = drawn_bed("drawn")
    grids = grids_of("drawn", points_of(bed.name, bed.lines))
    assert [grid.title for grid in grids[:2]] == ["drawn: hidden similarity", "drawn: loss, linear"]
    assert len(grids) == 5
    similar = grids[0].values[np.triu_indices(8, 1)]
    assert (similar.min(), similar.max()) == (0, 1)
    assert grids[1].values[np.triu_indices(8, 1)].min() >= -100


@pytest.mark.parametrize("width", [60, 80, 120])
def test_characters(width: int) -> None:
    bed = drawn_bed("drawn", letters="abcdefghijkl")
    shown = figure_text(grids_of("drawn", points_of(bed.name, bed.lines)), width)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= max(width, 75)
    assert "█" in shown
    assert len(lines) == (2 + 12 if width >= 76 else 2 + 2 * 13)


def test_too_few_pairs_have_a_word() -> None:
    assert "takes three experts" in figure_text(grids_of("bed", points_of("bed", [made("ab")])), 80)
    assert "No pairs" in figure_html({"bed": []})


def test_pairs_that_were_not_merged_are_unknown() -> None:
    scores = {name: {"mean_distance": k / 9} for k, name in enumerate("abcd")}
    lines = [made(pair, scores=scores) for pair in ("ab", "bc", "cd")]
    grids = grids_of("bed", points_of("bed", lines))
    assert "??" in figure_text(grids, 80)
    assert "nan" not in figure_html({"bed": grids})


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
    page = figure_html({"bed": grids})
    assert "<script" not in page
    assert "<b>bed" not in page
    assert "&lt;script&gt;" in page
    assert figure_text(grids, 80).count("\n") == 2 + 3
