"""Tables and pictures of characters: none of their numbers is ever wrapped or cut."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import shorten
from pytest_mergegate.report.formats.numbers import Column
from pytest_mergegate.report.types import Report

COLORS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "error": "red"}
_GAP = 2
LONGEST_NAME = 32
_SHORTEST_NAME = 12
FEWEST = 3
"""Experts from which on there is something to compare."""
_SHADES = "·░▒▓█"


def expert_tables(
    names: Sequence[str], columns: Sequence[Column], width: int, title: str | None
) -> Iterator[Table]:
    """One row per expert; several tables, one below the other, where one is too wide."""
    longest = max((cell_len(clean(name)) for name in names), default=0)
    label = min(max(longest, len("expert")), LONGEST_NAME)
    needed = sum(_width(column) + _GAP for column in columns)
    label = max(min(label, width - needed), min(label, _SHORTEST_NAME))
    part: list[Column] = []
    for column in columns:
        if part and sum(_width(c) + _GAP for c in [*part, column]) > width - label:
            yield text_table(names, part, label, title)
            part, title = [], None
        part.append(column)
    yield text_table(names, part, label, title)


def text_table(
    names: Sequence[str],
    columns: Sequence[Column],
    label: int,
    title: str | None = None,
    *,
    about: str = "expert",
) -> Table:
    """One row per name, which takes ``label`` columns."""
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


def heatmap(report: Report, width: int = 80) -> list[str]:
    """How to read the picture, and the picture in at most ``width`` columns; empty where there is
    nothing to show.

    Of hidden similarity, else of distance. It is drawn in as much detail as there is room for:
    with numbers, with cells two columns wide, or one; experts that still find no room are left
    out, which the first line says.
    """
    names = list(report.expert_names)
    found = _values(report)
    if len(names) < FEWEST or found is None:
        return []
    what, values, largest = found
    label = min(24, max(cell_len(clean(name)) for name in names))
    digits = len(str(len(names)))
    room = width - label - digits - 2
    cell = next((size for size in (6, 2, 1) if size * len(names) <= room), 1)
    shown = names[: max(room, FEWEST)] if cell == 1 else names
    left_out = len(names) - len(shown)
    more = f"; {left_out} experts found no room" if left_out else ""
    lines = [" " * (label + digits + 2) + line for line in _header(len(shown), cell)]
    for place, name in enumerate(shown, start=1):
        cells = "".join(
            _cell(values.get(frozenset((name, other))), largest, cell, own=name == other)
            for other in shown
        )
        lines.append(f"{place:>{digits}} {shorten(clean(name), label)} {cells}".rstrip())
    return [f"{what}{more}", *lines]


def _values(report: Report) -> tuple[str, dict[frozenset[str], float], float] | None:
    """What is shown, its values by pair, and the largest."""
    for key, what, most, least in (
        ("hidden_similarity", "hidden similarity", "1 most alike", "0 farthest apart"),
        ("distance", "hidden-state distance", "farthest apart", "0"),
    ):
        known = {frozenset((pair.a, pair.b)): getattr(pair, key) for pair in report.pairs}
        known = {pair: value for pair, value in known.items() if value is not None}
        if known:
            largest = 1.0 if key == "hidden_similarity" else max(known.values()) or 1.0
            legend = " ".join((_SHADES[4], most, *_SHADES[3:0:-1], _SHADES[0], least))
            return f"{what}: {legend}", known, largest
    return None


def _cell(value: float | None, largest: float, size: int, *, own: bool) -> str:
    if own:
        return " " * size
    if value is None:
        return f"{'?':<6}" if size == 6 else "?" * size
    share = min(max(value / largest, 0.0), 1.0)
    shade = _SHADES[round(share * (len(_SHADES) - 1))]
    return f"{shade}{value:<5.2f}" if size == 6 else shade * size


def _header(count: int, size: int) -> list[str]:
    """The numbers of the columns, one below the other where a cell is one column wide."""
    if size > 1:
        numbers = "".join(f"{n if size > 2 else n % 100:<{size}}" for n in range(1, count + 1))
        return [numbers.rstrip()]
    digits = len(str(count))
    return ["".join(f"{n:>{digits}}"[row] for n in range(1, count + 1)) for row in range(digits)]
