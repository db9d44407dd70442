"""Rows of tokens in groups by what they begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.engine.models import beginnings
from pytest_mergegate.engine.models.beginnings import by_beginning

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple), max_size=20)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "_FEWEST", 2)
    monkeypatch.setattr(beginnings, "_LEAST_SAVED", 6)


@given(ROWS, st.data())
def test_every_row_is_in_one_group_and_begins_as_it_says(
    rows: Sequence[tuple[int, ...]], data: st.DataObject
) -> None:
    most = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    groups = by_beginning(rows, most)
    assert sorted(index for _, members in groups for index in members) == [*range(len(rows))]
    for begins, members in groups:
        for index in members:
            assert rows[index][: len(begins)] == begins
            assert len(begins) <= most[index]
        assert begins == () or (len(members) - 1) * len(begins) >= 6


def test_tasks_with_instructions_of_their_own() -> None:
    """A system prompt is common to all, an instruction to the rows of one task."""
    system, tasks = (9,) * 5, [(1,) * 7, (2,) * 7, (3,) * 7]
    rows = [(*system, *task, k, k + 1) for k in range(8) for task in tasks]
    found = by_beginning(rows, [len(row) - 1 for row in rows])
    assert sorted(begins for begins, _ in found) == [(*system, *task) for task in tasks]
    assert {len(members) for _, members in found} == {8}


def test_rows_that_share_too_little_stay_together() -> None:
    rows = [(k, k + 1, k + 2) for k in range(9)]
    assert by_beginning(rows, [2] * 9) == [((), [*range(9)])]
    assert by_beginning([], []) == []
