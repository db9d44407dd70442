"""Where an answer ends: the first token that completes a stop string, read without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.engine.models.stops import first_stop, until_stop

if TYPE_CHECKING:
    from collections.abc import Sequence

PIECES = ("a", "b", "ab", "\n", "ba\n", "")


def read(answer: Sequence[int]) -> str:
    """Tokens of one or several letters, and one that says nothing."""
    return "".join(PIECES[token] for token in answer)


@pytest.mark.parametrize(
    ("text", "stop", "start"),
    [
        pytest.param("ab\nc", ["\n"], 2, id="one"),
        pytest.param("abc", ["\n"], None, id="none"),
        pytest.param("abc", [], None, id="no stop strings"),
        pytest.param("abc", ["abc", "b"], 1, id="the one that completes first"),
        pytest.param("abc", ["bc", "abc"], 0, id="both complete: the longer"),
        pytest.param("aab", ["ab"], 1, id="after a false start"),
        pytest.param("\n\n", ["\n"], 0, id="at once"),
    ],
)
def test_first_stop(text: str, stop: list[str], start: int | None) -> None:
    assert first_stop(text, stop) == start


@pytest.mark.parametrize(
    ("answer", "stop", "kept"),
    [
        pytest.param([0, 3, 1], ["\n"], 2, id="one token"),
        pytest.param([0, 1, 0, 3], ["ba"], 3, id="over two tokens"),
        pytest.param([2, 0], ["b"], 1, id="within a token"),
        pytest.param([0, 4, 1], ["ab"], 2, id="with letters left over on both sides"),
        pytest.param([0, 5, 1], ["ab"], 3, id="around a token that says nothing"),
        pytest.param([0, 0], ["b"], 2, id="never"),
        pytest.param([], ["b"], 0, id="no answer"),
    ],
)
def test_until_stop(answer: list[int], stop: list[str], kept: int) -> None:
    assert until_stop(read, answer, stop) == answer[:kept]


tokens = st.lists(st.integers(0, len(PIECES) - 1), max_size=8)


@given(tokens, tokens, st.lists(st.text("ab\n", min_size=1, max_size=3), min_size=1, max_size=3))
def test_what_follows_does_not_matter(
    answer: list[int], padding: list[int], stop: list[str]
) -> None:
    """So an answer does not depend on how long other rows of its batch went on."""
    kept = until_stop(read, answer, stop)
    if first_stop(read(kept), stop) is not None:
        assert until_stop(read, answer + padding, stop) == kept
        assert all(string not in read(kept[:-1]) for string in stop)
    else:
        assert kept == answer
