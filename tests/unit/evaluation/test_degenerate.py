"""Outputs that are no answers any more."""

from __future__ import annotations

import pytest

from pytest_mergegate.evaluation.degenerate import degeneracy, is_loop

SOUND = ["red", "blue", "green", "red"]
FREE = [None] * 4
COLOURS = [("red", "blue", "green")] * 4


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        pytest.param(SOUND, None, id="sound"),
        pytest.param(["", "", "", "red"], "empty", id="mostly empty"),
        pytest.param(["", "", "blue", "red"], None, id="half empty"),
        pytest.param(["red"] * 4, "constant", id="constant"),
        pytest.param(["abababab", "no no no no no", "xxxxxxxxx", "red"], "loop", id="loops"),
    ],
)
def test_free_answers(outputs: list[str], expected: str | None) -> None:
    assert degeneracy(outputs, SOUND, FREE) == expected


def test_answers_outside_the_choices() -> None:
    outputs = ["red", "rde", "bleu", "gren"]
    assert degeneracy(outputs, SOUND, COLOURS) == "invalid_choice"
    assert degeneracy(outputs, SOUND, [None, None, *COLOURS[2:]]) is None


@pytest.mark.parametrize(
    "outputs",
    [["", "", "", ""], ["red"] * 4, ["abababab"] * 3 + ["red"], ["rde", "bleu", "gren", "x"]],
    ids=["empty", "constant", "loop", "invalid choice"],
)
def test_nothing_new_is_no_damage(outputs: list[str]) -> None:
    """What the expert does itself is not held against the merge."""
    assert degeneracy(outputs, outputs, COLOURS) is None


def test_too_few_to_say() -> None:
    assert degeneracy(["", "", ""], SOUND[:3], FREE[:3]) is None


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        pytest.param("aaaaaaaa", True, id="one letter"),
        pytest.param("the cat the cat the cat the cat", True, id="words"),
        pytest.param("well: " + "ha" * 10, True, id="after a start"),
        pytest.param("aaa", False, id="short"),
        pytest.param("a long and varied answer aaaaaaaa", False, id="only the end"),
        pytest.param("abcabc", False, id="twice"),
        pytest.param("", False, id="empty"),
    ],
)
def test_loop(text: str, loop: bool) -> None:
    assert is_loop(text) is loop
