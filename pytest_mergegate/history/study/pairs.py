"""Pairs of experts: whether what two have in conflict goes with what merging them costs (Table 4),
and how alike they are beside that cost (Figure 1)."""

import html
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from string import Template

import numpy as np
import numpy.typing as npt

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import shorten
from pytest_mergegate.history.study.losses import Point, methods_of, p_value, varies
from pytest_mergegate.history.study.tables import Cell, Table
from pytest_mergegate.metrics.resampling import PERMUTATIONS, SEED, mantel

Correlations = Mapping[tuple[str, str], "Correlation"]

METRICS = {
    "magnitude_change_ratio": "magnitude",
    "sign_change_ratio": "sign",
    "conflicting_magnitude_ratio": "conflict",
    "cosine": "cosine",
    "mean_distance": "hidden",
}
"""Of a pair, an expert's mean over its partners is the pair's own number."""
_SHADES = "·░▒▓█"
_UNKNOWN = "?"
_NAME = 16


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """One metric of the pairs against their loss under one method."""

    pairs: int
    r: float
    p: float
    """Pearson's, which takes the pairs for independent"""
    mantel_p: float
    """By relabelling the experts, which does not"""


def pair_matrices(
    points: Sequence[Point], metric: str
) -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The experts, a metric of every pair, and the mean loss of its two; NaN where unknown.

    ``points`` are of one method.
    """
    pairs: dict[frozenset[str], list[Point]] = defaultdict(list)
    for point in points:
        if point.size == 2:
            pairs[frozenset(point.partners)].append(point)
    names = sorted({name for pair in pairs for name in pair})
    values, losses = (np.full((len(names), len(names)), np.nan) for _ in range(2))
    for pair, both in pairs.items():
        i, j = sorted(map(names.index, pair))
        value = both[0].expert.score(metric)
        if value is not None:
            values[i, j] = values[j, i] = value
        if len(both) == 2:
            losses[i, j] = losses[j, i] = (both[0].loss + both[1].loss) / 2
    return names, values, losses


def correlations(
    points: Sequence[Point], permutations: int = PERMUTATIONS
) -> dict[tuple[str, str], Correlation]:
    """By method and metric, except for what has fewer than four pairs or does not vary."""
    from scipy.stats import pearsonr

    found = {}
    for method, metric in product(methods_of(points), METRICS):
        of = [point for point in points if point.method == method]
        names, values, losses = pair_matrices(of, metric)
        upper = np.triu_indices(len(names), 1)
        x, y = values[upper], losses[upper]
        known = ~np.isnan(x) & ~np.isnan(y)
        x, y = x[known], y[known]
        if len(x) >= 4 and varies(x) and varies(y):
            r, p = pearsonr(x, y)
            permuted = mantel(values, losses, permutations=permutations, seed=SEED)
            found[method, metric] = Correlation(
                pairs=len(x), r=float(r), p=float(p), mantel_p=permuted.p
            )
    return found


def table_4(bed: str, found: Correlations) -> Table:
    """The p-values, a method a row."""
    return _table(
        found,
        lambda one: f"{p_value(one.p)} ({_sign(one.r)})",
        key="table_4",
        title=f"Table 4, {bed}. p of a pair's metric against its mean loss (sign of r)",
        note="Pearson's p, as in the paper: it takes pairs for independent, though each expert is "
        "in many. A conflict that costs has the sign -, a cosine that spares the sign +.",
    )


def mantel_table(bed: str, found: Correlations) -> Table:
    """The same by relabelling experts."""
    return _table(
        found,
        lambda one: f"{one.r:+.2f} ({p_value(one.mantel_p)})",
        key="mantel",
        title=f"The same for {bed} by Mantel's test: r, and p by relabelling the experts",
        note=f"{PERMUTATIONS} relabellings, seed {SEED}, two-sided.",
    )


def _table(
    found: Correlations, told: Callable[[Correlation], str], *, key: str, title: str, note: str
) -> Table:
    rows: list[list[Cell]] = []
    for method in dict.fromkeys(method for method, _ in found):
        cells = [found.get((method, metric)) for metric in METRICS]
        pairs = max(cell.pairs for cell in cells if cell)
        rows.append([method, pairs, *(told(cell) if cell else None for cell in cells)])
    none = "Fewer than four pairs with a loss, or losses that do not vary."
    return Table(
        key=key,
        title=title,
        columns=dict.fromkeys(["method", "pairs", *METRICS.values()]),
        rows=rows,
        notes=(note if rows else none,),
    )


def _sign(r: float) -> str:
    return "0" if math.isclose(r, 0, abs_tol=5e-4) else "+" if r > 0 else "-"


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
    tables = "\n".join(map(_drawn, grids))
    return page.substitute(tables=tables or "<p>No pairs with a measured loss.</p>")


def _drawn(grid: Grid) -> str:
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
