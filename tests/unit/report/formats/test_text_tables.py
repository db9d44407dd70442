"""The picture of how alike the experts are."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from pytest_mergegate.common.wording import shorten
from pytest_mergegate.report.formats.text_tables import heatmap
from report.formats.made import HOSTILE, NAMES, pairs, report


def test_numbers_beside_the_shades_where_there_is_room() -> None:
    made = heatmap(report())
    assert made[0].startswith("hidden similarity: █ 1 most alike")
    assert made[1:] == [
        "             1     2     3     4",
        "1 rotate           █1.00 ▒0.50 ·0.00",
        "2 first_last █1.00       █1.00 ▒0.50",
        "3 reverse    ▒0.50 █1.00       █1.00",
        "4 shout      ·0.00 ▒0.50 █1.00",
    ]


def test_two_experts_have_none() -> None:
    assert heatmap(report(NAMES[:2], failing=())) == []


def test_no_hidden_states_no_picture() -> None:
    bare = [{"a": p["a"], "b": p["b"]} for p in pairs(NAMES)]
    assert heatmap(report(pairs=bare)) == []


def test_distance_where_similarity_is_undefined() -> None:
    apart = [p | {"hidden_similarity": None} for p in pairs(NAMES)]
    made = heatmap(report(pairs=apart))
    assert made[0].startswith("hidden-state distance: █ farthest apart")
    assert "█0.80" in "\n".join(made)  # the largest of them


def test_a_pair_that_is_undefined_is_no_zero() -> None:
    some = pairs(NAMES)
    some[0]["hidden_similarity"] = None
    made = heatmap(report(pairs=some))
    assert "1 rotate           ?     ▒0.50" in "\n".join(made)


@pytest.mark.parametrize(("count", "width"), [(3, 40), (12, 80), (30, 80), (60, 80), (60, 200)])
def test_it_keeps_to_the_width(count: int, width: int) -> None:
    names = [f"expert_with_a_long_name_{k}" for k in range(count)]
    made = heatmap(report(names, failing=()), width)
    assert all(cell_len(line) <= width for line in made[1:])
    left_out = int(made[0].split("; ")[1].split()[0]) if "; " in made[0] else 0
    assert len(made[1:]) >= count - left_out
    assert left_out == max(0, count - (width - 24 - len(str(count)) - 2))


def test_columns_of_sixty_are_numbered_downwards() -> None:
    made = heatmap(report([f"e{k}" for k in range(60)], failing=()), 80)
    ones = "".join(str(k % 10) for k in range(1, 61))
    assert made[2].strip() == ones


def test_hostile_names_stay_on_their_lines() -> None:
    made = heatmap(report(HOSTILE, failing=()))
    assert len(made[1:]) == 1 + len(HOSTILE)
    assert "\x1b" not in "\n".join(made)
    assert "\u202e" not in "\n".join(made)


@pytest.mark.parametrize(
    ("name", "width", "shown"),
    [
        ("abc", 5, "abc  "),
        ("reverse_shout", 9, "reve…hout"),
        ("reverse_shout", 13, "reverse_shout"),
        ("名前名前名前", 7, "名 …前 "),
        ("ab", 1, "a"),
    ],
)
def test_names_are_cut_in_the_middle(name: str, width: int, shown: str) -> None:
    assert shorten(name, width) == shown
    assert cell_len(shown) == width
