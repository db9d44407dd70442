"""A table, as people and programs read it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table as Rich
from rich.text import Text

from pytest_mergegate.common.plain_text import clean

_GAP = 2
_NARROWEST = 16
"""Columns that a label is wrapped to, before a table is shown in parts."""
Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Named columns, rows of plain values, and what there is to say about them."""

    key: str
    """Its name in JSON."""
    title: str
    columns: Mapping[str, int | None]
    """The columns, and to how many digits their numbers are shown; None for text and counts."""
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    labels: int = 1
    """How many of the first columns are text, which may be wrapped."""

    def shown(self) -> list[list[str]]:
        """The cells, as people read them."""
        digits = list(self.columns.values())
        return [[_shown(c, d) for c, d in zip(row, digits, strict=True)] for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a row is an object of its columns."""
        names = list(self.columns)
        return {
            "title": self.title,
            "rows": [dict(zip(names, row, strict=True)) for row in self.rows],
            "notes": list(self.notes),
        }


def _shown(cell: Cell, digits: int | None) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        shown = f"{cell:.{3 if digits is None else digits}f}"
        return shown.removeprefix("-") if float(shown) == 0 else shown
    return str(cell)


def text(table: Table, width: int, *, color: bool = False) -> str:
    """The table for a terminal: no number is wrapped or cut; in parts where it is too wide."""
    shown = StringIO()
    console = Console(
        file=shown, width=width, force_terminal=color, no_color=not color, highlight=False
    )
    console.print(Text(clean(table.title), style="bold"))
    for columns in _parts(table, width) if table.rows else ():
        console.print(_drawn(table, columns))
    for note in table.notes:
        console.print(Text(clean(note)))
    return "\n".join(line.rstrip() for line in shown.getvalue().splitlines()) + "\n"


def _parts(table: Table, width: int) -> Iterator[list[int]]:
    """Places of columns that fit beside each other, the labels in every part."""
    widths = [
        max([len(name), *(len(row[place]) for row in table.shown())]) + _GAP
        for place, name in enumerate(table.columns)
    ]
    labels = list(range(table.labels))
    room = width - sum(min(widths[place], _NARROWEST + _GAP) for place in labels)
    part: list[int] = []
    for place in range(table.labels, len(widths)):
        if part and sum(widths[k] for k in [*part, place]) > room:
            yield labels + part
            part = []
        part.append(place)
    yield labels + part


def _drawn(table: Table, columns: Sequence[int]) -> Rich:
    drawn, names = Rich(box=None, padding=(0, _GAP, 0, 0), pad_edge=False), list(table.columns)
    for place in columns:
        label = place < table.labels
        drawn.add_column(
            Text(names[place]),
            justify="left" if label else "right",
            no_wrap=not label,
            overflow="fold",
        )
    for row in table.shown():
        drawn.add_row(*(Text(clean(row[place])) for place in columns))
    return drawn
