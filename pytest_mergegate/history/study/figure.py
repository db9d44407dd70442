"""Figure 1: how alike two experts are, beside what merging them costs."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import shorten
from pytest_mergegate.history.study.conflicts import pair_matrices
from pytest_mergegate.history.study.points import methods_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    low: float
    """Where the colours begin, and end."""
    high: float
    color: str
    digits: int

    def share(self, i: int, j: int) -> float | None:
        """How far into the colours a pair is; None where it is not known."""
        value = self.values[i, j]
        if i == j or math.isnan(value):
            return None
        return float(np.clip((value - self.low) / (self.high - self.low), 0, 1))


def grids_of(bed: str, points: Sequence[Point]) -> list[Grid]:
    """The hidden similarity of the pairs, and their mean loss under every method."""
    by_method = {m: [p for p in points if p.method == m] for m in methods_of(points)}
    names, distances, _ = pair_matrices(next(iter(by_method.values()), []), "mean_distance")
    if len(names) < 3:
        return []
    span = np.nanmax(distances) - np.nanmin(distances) if np.isfinite(distances).any() else 0.0
    grids = []
    if span > 0:
        similar = (np.nanmax(distances) - distances) / span
        title = f"{bed}: hidden similarity"
        grids.append(_grid(title, names, similar, 0, 1, "37,99,235", 2))
    for method, of in by_method.items():
        own, _, losses = pair_matrices(of, "mean_distance")
        if own == names:
            grids.append(_grid(f"{bed}: loss, {method}", names, losses, 0, -100, "185,28,28", 0))
    return grids


def _grid(
    title: str,
    names: Iterable[str],
    values: npt.NDArray[np.float64],
    low: float,
    high: float,
    color: str,
    digits: int,
) -> Grid:
    return Grid(
        title=title,
        names=tuple(names),
        values=values,
        low=low,
        high=high,
        color=color,
        digits=digits,
    )


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


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Similarity beside loss</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 14px system-ui, sans-serif; margin: 2rem; color: #111; background: #fff }}
main {{ display: flex; flex-wrap: wrap; gap: 2rem }}
table {{ border-collapse: collapse; font-size: 11px }}
caption {{ text-align: left; font-weight: 600; font-size: 14px; padding: .3rem 0 }}
th {{ font-weight: 400; text-align: right; padding: 0 .4rem; white-space: nowrap }}
thead th {{ writing-mode: vertical-rl; text-align: left; padding: .4rem 0 }}
td {{ width: 2.6em; height: 2.2em; text-align: center; border: 1px solid #fff }}
</style>
<h1>Similarity beside loss</h1>
<p>Every pair of experts. Blue: hidden similarity, 1 for the pair most alike, 0 for the one least
alike. Red: the mean loss of the two after merging them, in percent. Empty: not known.</p>
<main>
{tables}
</main></html>
"""


def figure_html(beds: Mapping[str, Sequence[Grid]]) -> str:
    """All grids on one page that needs nothing else."""
    tables = [_table(grid) for grids in beds.values() for grid in grids]
    return _PAGE.format(tables="\n".join(tables) or "<p>No pairs with a measured loss.</p>")


def _table(grid: Grid) -> str:
    names = [html.escape(clean(name)) for name in grid.names]
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    rows = [
        f"<tr><th scope=row>{name}</th>{''.join(_td(grid, i, j) for j in range(len(names)))}</tr>"
        for i, name in enumerate(names)
    ]
    caption = html.escape(clean(grid.title))
    return (
        f"<table><caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _td(grid: Grid, i: int, j: int) -> str:
    share = grid.share(i, j)
    if share is None:
        return "<td></td>"
    ink = "#fff" if share > 0.6 else "#111"
    shown = f"{round(grid.values[i, j], grid.digits) + 0.0:.{grid.digits}f}"
    return f'<td style="background:rgba({grid.color},{share:.2f});color:{ink}">{shown}</td>'
