"""Table 4: whether what two experts have in conflict goes with what merging them costs."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.history.study.losses import p_value, varies
from pytest_mergegate.history.study.points import methods_of
from pytest_mergegate.history.study.tables import Table
from pytest_mergegate.metrics.resampling import PERMUTATIONS, SEED, mantel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from pytest_mergegate.history.study.points import Point
    from pytest_mergegate.history.study.tables import Cell

    Correlations = Mapping[tuple[str, str], "Correlation"]

METRICS = {
    "magnitude_change_ratio": "magnitude",
    "sign_change_ratio": "sign",
    "conflicting_magnitude_ratio": "conflict",
    "cosine": "cosine",
    "mean_distance": "hidden",
}
"""Of a pair, an expert's mean over its partners is the pair's own number."""


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
    """By method and metric, but for what has fewer than four pairs or does not vary."""
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
