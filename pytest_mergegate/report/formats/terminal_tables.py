"""Tables at a terminal: none of their numbers is ever wrapped or cut."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import shorten
from pytest_mergegate.report.formats.columns import NONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mergegate.report.formats.columns import Column
    from pytest_mergegate.report.types import Report

COLORS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "error": "red"}
_GAP = 2
_LONGEST_NAME = 32
_SHORTEST_NAME = 12


def expert_tables(
    names: Sequence[str], columns: Sequence[Column], width: int, title: str | None
) -> Iterator[Table]:
    """One row per expert; several tables, one below the other, where one is too wide."""
    longest = max((cell_len(clean(name)) for name in names), default=0)
    label = min(max(longest, len("expert")), _LONGEST_NAME)
    needed = sum(_width(column) + _GAP for column in columns)
    label = max(min(label, width - needed), min(label, _SHORTEST_NAME))
    part: list[Column] = []
    for column in columns:
        if part and sum(_width(c) + _GAP for c in [*part, column]) > width - label:
            yield _table(names, part, label, title)
            part, title = [], None
        part.append(column)
    yield _table(names, part, label, title)


def _table(names: Sequence[str], columns: Sequence[Column], label: int, title: str | None) -> Table:
    rows = _empty_table()
    rows.title = None if title is None else Text(clean(title))
    rows.add_column("expert", no_wrap=True, width=label)
    for column in columns:
        rows.add_column(
            Text("\n".join(_head(column))),
            justify="left" if column.title == "verdict" else "right",
            no_wrap=True,
            width=_width(column),
        )
    for name in names:
        cells = (column.cells[name] for column in columns)
        shown = (Text(cell, style=COLORS.get(cell, "")) for cell in cells)
        rows.add_row(Text(shorten(clean(name), label).rstrip()), *shown)
    return rows


def _empty_table() -> Table:
    return Table(
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, _GAP, 0, 0),
        pad_edge=False,
    )


def _head(column: Column) -> list[str]:
    """The title, a word a line where it is longer than the numbers; the unit and the limit."""
    numbers = max(map(cell_len, column.cells.values()), default=0)
    title = column.title.split() if len(column.title) > max(numbers, 13) else [column.title]
    return [line for line in (*title, column.unit, column.limit) if line]


def _width(column: Column) -> int:
    return max(cell_len(text) for text in (*_head(column), *column.cells.values()))


def layer_table(report: Report, width: int) -> Table | None:
    """The conflict in every layer, as means over the pairs; None where it is not known."""
    if report.conflicts is None or not report.conflicts.layers:
        return None
    ratios = ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio")
    rows = _empty_table()
    rows.add_column("layer", no_wrap=True, width=min(_LONGEST_NAME, width - 34))
    for ratio in ratios:
        rows.add_column(ratio.replace("_", "\n"), justify="right", no_wrap=True)
    for place, layer in enumerate(report.conflicts.layers):
        found = ([p.layers.get(r, ())[place : place + 1] for p in report.pairs] for r in ratios)
        known = ([value for own in of for value in own if value is not None] for of in found)
        cells = (f"{fmean(values):.3f}" if values else NONE for values in known)
        rows.add_row(Text(clean(layer), overflow="ellipsis"), *cells)
    return rows
