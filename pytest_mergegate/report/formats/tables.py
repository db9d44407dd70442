"""Tables at a terminal: none of their numbers is ever wrapped or cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.report.formats.heatmap import shorten

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
    for part in _fitting(columns, width - label):
        yield _table(names, part, label, title)
        title = None


def _fitting(columns: Sequence[Column], room: int) -> Iterator[list[Column]]:
    part: list[Column] = []
    for column in columns:
        if part and sum(_width(c) + _GAP for c in [*part, column]) > room:
            yield part
            part = []
        part.append(column)
    yield part


def _table(names: Sequence[str], columns: Sequence[Column], label: int, title: str | None) -> Table:
    rows = Table(
        title=None if title is None else Text(clean(title)),
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, _GAP, 0, 0),
        pad_edge=False,
    )
    heads = [_head(column) for column in columns]
    height = max((len(head) for head in heads), default=1)
    rows.add_column(_header(["expert"], height), no_wrap=True, width=label)
    for column, head in zip(columns, heads, strict=True):
        numeric = column.title != "verdict"
        rows.add_column(
            _header(head, height),
            justify="right" if numeric else "left",
            no_wrap=True,
            width=_width(column),
        )
    for name in names:
        cells = (column.cells.get(name, "-") for column in columns)
        shown = (Text(cell, style=COLORS.get(cell, "")) for cell in cells)
        rows.add_row(Text(shorten(clean(name), label).rstrip()), *shown)
    return rows


def _head(column: Column) -> list[str]:
    """The title, a word a line where it is longer than the numbers; the unit and the limit."""
    numbers = max(map(cell_len, column.cells.values()), default=0)
    title = column.title.split() if len(column.title) > max(numbers, 13) else [column.title]
    return [line for line in (*title, column.unit, column.limit) if line]


def _header(lines: list[str], height: int) -> Text:
    """At the foot of the header, where the numbers begin."""
    return Text("\n".join([""] * (height - len(lines)) + lines))


def _width(column: Column) -> int:
    return max(cell_len(text) for text in (*_head(column), *column.cells.values()))


def layer_table(report: Report, width: int) -> Iterator[Table]:
    """The conflict in every layer: means over the pairs, and the pair that conflicts most."""
    if report.conflicts is None or not report.conflicts.layers:
        return
    ratios = ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio")
    rows = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    rows.add_column(Text("\n\nlayer"), no_wrap=True, width=min(_LONGEST_NAME, width - 34))
    for head in (
        "magnitude\nchange\nratio",
        "sign\nchange\nratio",
        "conflicting\nmagnitude\nratio",
    ):
        rows.add_column(Text(head), justify="right", no_wrap=True)
    for place, layer in enumerate(report.conflicts.layers):
        known = {r: [p.layers.get(r, ())[place : place + 1] for p in report.pairs] for r in ratios}
        cells = (
            _mean([value for found in known[r] for value in found if value is not None])
            for r in ratios
        )
        rows.add_row(Text(clean(layer), overflow="ellipsis"), *cells)
    yield rows


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f}" if values else "-"
