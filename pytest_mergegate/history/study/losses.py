"""Tables 1 to 3: what merging costs, expert by expert, and whether method or task decides it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.history.study.points import largest_pool, losses_of, methods_of
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import numpy.typing as npt

    from pytest_mergegate.history.study.points import Point
    from pytest_mergegate.history.study.tables import Cell


@dataclass(frozen=True, kw_only=True)
class Anova:
    """One way: does the mean differ between groups by more than within them?"""

    f: float
    p: float
    groups: int
    values: int


def anova(values: Sequence[float], groups: Sequence[Hashable]) -> Anova | None:
    """One-way analysis of variance; None where groups are fewer than two, or nothing varies."""
    from scipy.stats import f_oneway

    of: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        of.setdefault(group, []).append(value)
    if len(of) < 2 or len(values) <= len(of) or not any(map(varies, of.values())):
        return None
    found = f_oneway(*of.values())
    return Anova(
        f=float(found.statistic), p=float(found.pvalue), groups=len(of), values=len(values)
    )


def varies(values: npt.ArrayLike) -> bool:
    """Whether numbers differ by more than round-off."""
    found = np.asarray(values, dtype=np.float64)
    return bool(np.ptp(found) > 1e-9 * np.abs(found).max()) if found.size else False


def table_1(bed: str, points: Sequence[Point]) -> Table:
    """Mean and standard deviation of the losses."""
    sizes = sorted({point.size for point in points})
    rows: list[list[Cell]] = []
    for method in methods_of(points):
        of = [point for point in points if point.method == method]
        rows.append([method, *(_spread([p for p in of if p.size == size]) for size in sizes)])
    counts = [Counter(p.method for p in points if p.size == size) for size in sizes]
    rows.append(["points of a method", *(max(count.values()) for count in counts)])
    names = ["pairs" if size == 2 else f"pools of {size}" for size in sizes]
    return Table(
        key="table_1",
        title=f"Table 1, {bed}. Merging loss in percent: mean ± standard deviation over experts",
        columns=dict.fromkeys(["method", *names]),
        rows=rows,
        notes=("Negative where the merge is worse; the standard deviation divides by n.",),
    )


def _spread(points: Sequence[Point]) -> str | None:
    if not points:
        return None
    losses = losses_of(points)
    return f"{losses.mean():.1f} ± {losses.std():.1f}"


def table_2(bed: str, points: Sequence[Point]) -> Table:
    """Every expert of the largest pool under every method."""
    rows: list[list[Cell]] = []
    pool = largest_pool(points)
    for point in pool:
        expert = point.expert
        scores = (expert.score_base, expert.score_expert, expert.score_merged)
        rows.append([point.method, point.name, *scores, point.loss])
    return Table(
        key="table_2",
        title=f"Table 2, {bed}. Scores of a largest pool, {pool[0].size} experts; loss in percent",
        columns={
            "method": None,
            "expert": None,
            "base": 3,
            "fine-tuned": 3,
            "merged": 3,
            "loss": 1,
        },
        rows=rows,
        labels=2,
    )


def table_3(bed: str, points: Sequence[Point]) -> Table:
    """Whether the losses differ by method, and by task."""
    factors: dict[str, Callable[[Point], str]] = {
        "method": lambda point: point.method,
        "task": lambda point: point.name,
    }
    rows: list[list[Cell]] = []
    for what, of in (("the largest pool", largest_pool(points)), ("all pools", points)):
        for factor, group in factors.items():
            found = anova([p.loss for p in of], [group(p) for p in of])
            rows.append([what, factor, *_anova_cells(found)])
    return Table(
        key="table_3",
        title=f"Table 3, {bed}. One-way ANOVA of the losses, by method and by task",
        columns={
            "points of": None,
            "factor": None,
            "groups": None,
            "points": None,
            "F": 2,
            "p": None,
        },
        rows=rows,
        labels=2,
        notes=("Points share experts and pools; p takes them for independent.",),
    )


def _anova_cells(found: Anova | None) -> list[Cell]:
    if found is None:
        return [None, None, None, None]
    return [found.groups, found.values, found.f, p_value(found.p)]


def p_value(p: float) -> str:
    """Three digits, and an exponent only where it takes one."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
