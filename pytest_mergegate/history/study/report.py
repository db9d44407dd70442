"""All tables and the figure of a bed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.history.study import conflicts, difficulty, figure, losses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.history.study.points import Point
    from pytest_mergegate.history.study.tables import Table


def tables_of(bed: str, points: Sequence[Point]) -> tuple[Table, ...]:
    """Tables 1 to 6, and the Mantel test beside the fourth."""
    correlated = conflicts.correlations(points)
    groups = difficulty.groups_of(points)
    return (
        losses.table_1(bed, points),
        losses.table_2(bed, points),
        losses.table_3(bed, points),
        conflicts.table_4(bed, correlated),
        conflicts.mantel_table(bed, correlated),
        difficulty.table_5(bed, groups),
        difficulty.table_6(bed, groups),
    )


def figure_of(bed: str, points: Sequence[Point], width: int) -> str:
    """Figure 1 in characters."""
    return figure.figure_text(figure.grids_of(bed, points), width)


def heatmap_of(beds: Mapping[str, Sequence[Point]]) -> str:
    """Figure 1 of all beds as a page."""
    return figure.figure_html({bed: figure.grids_of(bed, points) for bed, points in beds.items()})
