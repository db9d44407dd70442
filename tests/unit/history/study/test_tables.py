"""Tables, as they are shown."""

from __future__ import annotations

import json

import pytest

from pytest_mergegate.history.study.tables import Table, text

HOSTILE = "<script>alert(1)</script> | 100%\n\x1b[31mred"


def table(**changes: object) -> Table:
    told: dict[str, object] = {
        "key": "t",
        "title": "A title",
        "columns": {"name": None, "x": 2, "n": None},
        "rows": [["a", -0.001, 3], ["b", None, 40]],
    }
    return Table(**(told | changes))  # type: ignore[arg-type]


def test_numbers_are_shown_to_their_digits() -> None:
    assert table().shown() == [["a", "0.00", "3"], ["b", "-", "40"]]


def test_json_has_the_plain_values() -> None:
    told = table().to_dict()
    assert told["rows"] == [{"name": "a", "x": -0.001, "n": 3}, {"name": "b", "x": None, "n": 40}]
    assert json.loads(json.dumps(told, allow_nan=False)) == told


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_number_is_cut_however_narrow(width: int) -> None:
    columns = {"name": None} | {f"column {k}": 1 for k in range(12)}
    row = ["a rather long name of a method", *(1000.5 + k for k in range(12))]
    shown = text(table(columns=columns, rows=[row]), width)
    assert all(f"{1000.5 + k:.1f}" in shown for k in range(12))
    assert max(map(len, shown.splitlines())) <= width
    assert shown.count("name") >= (2 if width < 100 else 1)  # every part has the labels


def test_a_terminal_is_not_steered() -> None:
    shown = text(table(rows=[[HOSTILE, 1.0, 2]], title=HOSTILE, notes=[HOSTILE]), 80)
    assert "\x1b" not in shown


def test_without_rows_there_are_the_notes() -> None:
    assert text(table(rows=[], notes=["Nothing there."]), 80) == "A title\nNothing there.\n"
