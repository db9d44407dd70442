"""What the validation card reads out of points, and its tables as Markdown."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from unit.history.registry.making import made
from unit.history.study.test_tables import HOSTILE, table

from pytest_mergegate.history.beds import Bed
from pytest_mergegate.history.study.losses import points_of

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from card.beds import evidence
from card.made import markdown
from card.scores import SCORES, collapses_of, losses_of, scores_of

COSINE = next(score for score in SCORES if score.field == "cosine")
MDS = next(score for score in SCORES if score.field == "mds")


def test_losses_and_collapses_are_those_of_the_points() -> None:
    points = points_of("bed", [made("abc", losses={"a": -31.0, "b": None, "c": -30.0})])
    assert list(losses_of(points)) == [-31, -30]
    assert list(collapses_of(points)) == [True, False]


def test_scores_are_turned_so_that_larger_is_riskier() -> None:
    scores = {"a": {"cosine": 0.9}, "b": {"cosine": -0.2}, "c": {}}
    points = points_of("bed", [made("abc", scores=scores, infinite=("mds",))])
    assert COSINE.of(points)[:2].tolist() == [-0.9, 0.2]
    assert np.isnan(COSINE.of(points)[2])
    assert [p.name for p in COSINE.known(points)] == ["a", "b"]
    assert MDS.of(points).tolist() == [math.inf] * 3


def test_only_scores_that_were_recorded_are_told_of() -> None:
    """Merges that were recorded before one was lack it; infinite ones are there."""
    older = points_of("bed", [made("ab", scores={"a": {"kl": 0.1}, "b": {}}, infinite=("mds",))])
    assert [score.field for score in scores_of(older)] == ["kl", "mds"]
    scores = {"a": {"token_agreement": 0.9, "total_variation": 0.1}, "b": {"token_agreement": 0.1}}
    (agreement, variation) = scores_of(points := points_of("bed", [made("ab", scores=scores)]))
    assert agreement.of(points).tolist() == [-0.9, -0.1]
    assert variation.of(points)[0] == 0.1


def test_beds_that_were_compared_in_two_ways_make_no_card() -> None:
    beds = [
        Bed(name=by, about={}, lines=(made("ab", base=by, compared_by=by),))
        for by in ("exact", "rouge_l")
    ]
    assert evidence(beds[1:]).every
    with pytest.raises(ValueError, match="compared by exact and by rouge_l say nothing together"):
        evidence(beds)


def test_markdown_stays_a_table_whatever_the_names() -> None:
    shown = markdown(table(rows=[[HOSTILE, 1.0, 2]], notes=["A note."]))
    lines = shown.splitlines()
    assert lines[0] == "| name | x | n |"
    assert lines[1] == "|---|---|---|"
    assert lines[2].count("|") - lines[2].count("\\|") == 4
    assert "<script" not in shown
    assert lines[3:] == ["", "A note."]
