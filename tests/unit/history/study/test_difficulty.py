"""Tables 5 and 6."""

from __future__ import annotations

import math

import pytest
from unit.history.registry.making import made

from pytest_mergegate.history.study.difficulty import (
    fit,
    fit_group,
    groups_of,
    replacements,
    table_5,
    table_6,
)
from pytest_mergegate.history.study.losses import points_of


def group_line(pool: str, mds: dict[str, float], losses: dict[str, float], **told: object):  # type: ignore[no-untyped-def]
    scores = {name: {"mds": value} for name, value in mds.items()}
    return made(pool, str(told.pop("method", "linear")), losses=losses, scores=scores, **told)


MDS = {"a": 1.1, "b": 1.3, "c": 1.9, "d": 5.0}


def test_the_best_loss_is_over_the_papers_methods() -> None:
    losses = {"linear": -30.0, "ties density=0.5": -10.0, "dare_ties density=0.5": -1.0}
    lines = [
        group_line("abcd", MDS, dict.fromkeys("abcd", loss), method=method)
        for method, loss in losses.items()
    ]
    (group,) = groups_of(points_of("bed", lines))
    assert group.best_loss("a") == -10
    (other,) = groups_of(points_of("bed", lines[2:]))
    assert other.best_loss("a") == -1
    assert group.worst_by_mds == "d"


def test_table_5_of_groups() -> None:
    falling = {"a": -1.0, "b": -2.0, "c": -5.0, "d": -60.0}
    flat = dict.fromkeys("abcd", -5.0)
    lines = [group_line("abcd", MDS, falling), group_line("bcda", MDS, flat, base="other")]
    lines += [made("ab"), made("abc")]
    groups = groups_of(points_of("bed", lines))
    assert [group.name for group in groups] == ["4-1", "4-2", "3-1"]
    found = fit_group(groups[0])
    assert found is not None
    assert found.r < -0.9
    assert found.rho == pytest.approx(-1)
    table = table_5("bed", groups)
    assert [row[0] for row in table.rows] == ["4-1", "4-2"]
    assert table.rows[1][2:] == [None, None, None]


def test_an_infinite_mds_is_the_highest_rank_and_in_no_line() -> None:
    found = fit([1.0, 2.0, 3.0, 4.0, math.inf], [-1.0, -2.0, -3.0, -4.0, 0.0])
    assert found is not None
    assert found.r == pytest.approx(-1)
    assert found.rho > -1
    assert fit([1.0, 2.0, 3.0, math.inf], [-1.0, -2.0, -3.0, 0.0]) is None


def test_replacing_the_hardest_is_found_where_it_was_recorded() -> None:
    before = group_line("abcd", MDS, {"a": -10.0, "b": -10.0, "c": -20.0, "d": -80.0})
    after = group_line("abce", MDS | {"e": 1.2}, {"a": -6.0, "b": -6.0, "c": -6.0, "e": -2.0})
    other = group_line("adef", MDS | {"e": 1.2, "f": 1.2}, {"f": -1.0})
    groups = groups_of(points_of("bed", [before, after, other]))
    (found,) = replacements(groups)
    assert (found.out, found.into, found.method, found.size) == ("d", "e", "linear", 4)
    assert (found.before, found.after) == (-30, -5)
    assert found.kept_before == pytest.approx(-40 / 3)
    assert found.kept_after == -6
    table = table_6("bed", groups)
    assert table.rows[0][:4] == ["linear", 1, -30.0, -5.0]
    assert table.rows[0][-1] == "1 of 1"
    assert "d → e (of 4)" in table.notes[1]


def test_a_newcomer_that_is_the_hardest_in_its_turn_says_nothing() -> None:
    pools = [
        group_line("abcd", MDS, {"d": -80.0}),
        group_line("abce", MDS | {"e": 9.0}, {"e": -90.0}),
    ]
    assert not replacements(groups_of(points_of("bed", pools)))


def test_nothing_recorded_has_a_word() -> None:
    tied = group_line("abcd", dict.fromkeys("abcd", 2.0), {})
    groups = groups_of(points_of("bed", [tied, group_line("abce", MDS | {"e": 1.0}, {})]))
    assert groups[0].worst_by_mds is None
    table = table_6("bed", groups[:1])
    assert not table.rows
    assert "No two recorded pools" in table.notes[0]
