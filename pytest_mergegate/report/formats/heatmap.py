"""How alike the experts are, as a picture of characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from pytest_mergegate.common.plain_text import clean

if TYPE_CHECKING:
    from pytest_mergegate.report.types import Report

FEWEST = 3
"""Experts from which on there is something to compare."""
_SHADES = "·░▒▓█"
_UNKNOWN = "?"
_NAME = 24


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """The picture, and how to read it."""

    caption: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """Everything, a line each."""
        return "\n".join((self.caption, *self.lines))


def heatmap(report: Report, width: int = 80) -> Heatmap | None:
    """The picture in at most ``width`` columns; None where there is nothing to show.

    Of hidden similarity, else of distance. It is drawn in as much detail as there is room for:
    with numbers, with cells two columns wide, or one; experts that still find no room are left
    out, which the caption says.
    """
    names = list(report.expert_names)
    found = _values(report)
    if len(names) < FEWEST or found is None:
        return None
    what, values, largest = found
    label = min(_NAME, max(cell_len(clean(name)) for name in names))
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
    return Heatmap(caption=f"{what}{more}", lines=tuple(lines))


def shorten(name: str, width: int) -> str:
    """``name`` in exactly ``width`` columns, cut in the middle where it is longer."""
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    head = max(width // 2, 1)
    kept, tail = set_cell_size(name, head), max(width - head - 1, 0)
    end = name[len(name) - tail :] if tail > 0 else ""
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(f"{kept}…{end}", width)


def _values(report: Report) -> tuple[str, dict[frozenset[str], float], float] | None:
    """What is shown, its values by pair, and the largest."""
    similar = {(p.a, p.b): p.hidden_similarity for p in report.pairs}
    apart = {(p.a, p.b): p.distance for p in report.pairs}
    for values, what in (
        (similar, f"hidden similarity: {_legend('1 most alike', '0 farthest apart')}"),
        (apart, f"hidden-state distance: {_legend('farthest apart', '0')}"),
    ):
        present = {frozenset(pair): v for pair, v in values.items() if v is not None}
        if present:
            largest = 1.0 if values is similar else max(present.values())
            return what, present, largest or 1.0
    return None


def _legend(most: str, least: str) -> str:
    return f"{_SHADES[-1]} {most} {_SHADES[-2]} {_SHADES[-3]} {_SHADES[-4]} {_SHADES[0]} {least}"


def _cell(value: float | None, largest: float, size: int, *, own: bool) -> str:
    if own:
        return " " * size
    if value is None:
        return f"{_UNKNOWN:<6}" if size == 6 else _UNKNOWN * size
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
