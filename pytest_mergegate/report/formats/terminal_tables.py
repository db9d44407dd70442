"""Tables at a terminal: none of their numbers is ever wrapped or cut."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import shorten
from pytest_mergegate.report.formats.numbers import Column

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


def layer_table(names: Sequence[str], columns: Sequence[Column], width: int) -> Table:
    """One row per layer of a model."""
    return _table(names, columns, min(_LONGEST_NAME, width - 34), None, about="layer")


def _table(
    names: Sequence[str],
    columns: Sequence[Column],
    label: int,
    title: str | None,
    *,
    about: str = "expert",
) -> Table:
    rows = Table(
        title=None if title is None else Text(clean(title)),
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, _GAP, 0, 0),
        pad_edge=False,
    )
    rows.add_column(about, no_wrap=True, width=label)
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


def _head(column: Column) -> list[str]:
    """The title, a word a line where it is longer than the numbers; the unit and the limit."""
    numbers = max(map(cell_len, column.cells.values()), default=0)
    title = column.title.split() if len(column.title) > max(numbers, 13) else [column.title]
    return [line for line in (*title, column.unit, column.limit) if line]


def _width(column: Column) -> int:
    return max(cell_len(text) for text in (*_head(column), *column.cells.values()))
