"""Figure 1: how alike two experts are, beside what merging them costs."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import shorten
from pytest_mergegate.history.study.conflicts import pair_matrices
from pytest_mergegate.history.study.points import methods_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from pytest_mergegate.history.study.points import Point

_SHADES = "·░▒▓█"
_UNKNOWN = "?"
_NAME = 16


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One number for every pair of experts."""

    title: str
    names: tuple[str, ...]
    values: npt.NDArray[np.float64]
    full: float
    """The number of the fullest colour; 0 has none."""
    color: str
    digits: int

    def share(self, i: int, j: int) -> float | None:
        """How far into the colours a pair is; None where it is not known."""
        value = self.values[i, j]
        if i == j or math.isnan(value):
            return None
        return float(np.clip(value / self.full, 0, 1))


def grids_of(bed: str, points: Sequence[Point]) -> list[Grid]:
    """The hidden similarity of the pairs, and their mean loss under every method."""
    by_method = {m: [p for p in points if p.method == m] for m in methods_of(points)}
    matrices = {m: pair_matrices(of, "mean_distance") for m, of in by_method.items()}
    names, distances, _ = next(iter(matrices.values()), ([], np.empty(0), None))
    if len(names) < 3:
        return []
    shown = []
    span = np.nanmax(distances) - np.nanmin(distances) if np.isfinite(distances).any() else 0.0
    if span > 0:
        similar = (np.nanmax(distances) - distances) / span
        shown.append(("hidden similarity", similar, 1, "37,99,235", 2))
    shown += [
        (f"loss, {method}", losses, -100, "185,28,28", 0)
        for method, (own, _, losses) in matrices.items()
        if own == names
    ]
    return [
        Grid(
            title=f"{bed}: {what}",
            names=tuple(names),
            values=values,
            full=full,
            color=color,
            digits=digits,
        )
        for what, values, full, color, digits in shown
    ]


def figure_text(grids: Sequence[Grid], width: int) -> str:
    """The similarity, and the loss under the first method, in characters."""
    if len(grids) < 2:
        return "Figure 1 takes three experts, and pairs of them whose loss was measured.\n"
    count, shown = len(grids[0].names), grids[:2]
    label = len(str(count)) + 1 + _NAME + 1
    cell = 2 if label + 2 * count <= width else 1
    beside = label + 2 * cell * count + 3 <= width
    drawn = min(count, (width - label) // cell)
    lines = [f"Figure 1. {' | '.join(clean(grid.title) for grid in shown)}"]
    lines.append(
        f"{_SHADES[-1]} most alike, or lost all … {_SHADES[0]} least alike, or lost nothing"
    )
    if drawn < count:
        lines.append(f"{count - drawn} experts found no room")
    for block in [shown] if beside else [[grid] for grid in shown]:
        if not beside:
            lines.append(clean(block[0].title))
        lines += (_row(block, i, drawn, cell) for i in range(drawn))
    return "\n".join(lines) + "\n"


def _row(block: Sequence[Grid], i: int, drawn: int, cell: int) -> str:
    names = block[0].names
    parts = ["".join(_cell(grid, i, j) * cell for j in range(drawn)) for grid in block]
    number = f"{i + 1:>{len(str(len(names)))}}"
    return f"{number} {shorten(clean(names[i]), _NAME)} {'   '.join(parts)}".rstrip()


def _cell(grid: Grid, i: int, j: int) -> str:
    share = grid.share(i, j)
    if share is None:
        return " " if i == j else _UNKNOWN
    return _SHADES[round(share * (len(_SHADES) - 1))]


def figure_html(grids: Iterable[Grid]) -> str:
    """All grids on one page that needs nothing else."""
    page = Template((files(__package__) / "figure.html").read_text("utf-8"))
    tables = "\n".join(map(_table, grids))
    return page.substitute(tables=tables or "<p>No pairs with a measured loss.</p>")


def _table(grid: Grid) -> str:
    names = [html.escape(clean(name)) for name in grid.names]
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    rows = [
        f"<tr><th scope=row>{name}</th>{''.join(_td(grid, i, j) for j in range(len(names)))}</tr>"
        for i, name in enumerate(names)
    ]
    return (
        f"<table><caption>{html.escape(clean(grid.title))}</caption><thead><tr><td></td>{head}"
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _td(grid: Grid, i: int, j: int) -> str:
    share = grid.share(i, j)
    if share is None:
        return "<td></td>"
    ink = "#fff" if share > 0.6 else "#111"
    shown = f"{round(grid.values[i, j], grid.digits) + 0.0:.{grid.digits}f}"
    return f'<td style="background:rgba({grid.color},{share:.2f});color:{ink}">{shown}</td>'
