"""Where disagreement and loss are one and the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from card.alarms import DISAGREEMENT
from card.beds import experts_of
from card.made import markdown
from card.scores import losses_of
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from card.beds import Evidence
    from pytest_mergegate.history.study.losses import Point

NEARLY = 0.99
"""The score from which on an expert is nearly always right."""
EXACT = "exact_match"


@dataclass(frozen=True, kw_only=True)
class Sameness:
    """How far the disagreement is the loss."""

    points: int
    experts: int
    correlation: float | None
    """Pearson's; None where one of them does not vary."""
    apart: float
    """The mean distance of both, in points of loss."""


def nearly_right(points: Sequence[Point]) -> list[Point]:
    """The points whose expert, scored by exact match, is nearly always right."""
    return [
        point
        for point in points
        if point.expert.metric == EXACT and (point.expert.score_expert or 0.0) >= NEARLY
    ]


def sameness(points: Sequence[Point]) -> Sameness | None:
    """Of the points whose disagreement is known; None of no points."""
    known = DISAGREEMENT.known(points)
    if not known:
        return None
    differ, lost = 100 * DISAGREEMENT.of(known), -losses_of(known)
    varies = min(np.ptp(differ), np.ptp(lost)) > 0
    return Sameness(
        points=len(known),
        experts=len(set(experts_of(known))),
        correlation=float(np.corrcoef(differ, lost)[0, 1]) if varies else None,
        apart=float(np.abs(differ - lost).mean()),
    )


def exact_part(found: Evidence) -> str:
    """The plain statement, and the numbers behind it."""
    rows: list[list[Any]] = []
    for bed, points in found.columns.items():
        near, every = sameness(nearly_right(points)), sameness(points)
        cells = _cells(near) if near else [0, 0, None, None]
        rows.append([bed, *cells, *(_cells(every)[1:] if every else [None] * 3)])
    columns: dict[str, int | None] = {"bed": None, f"experts of {NEARLY} and more": None}
    columns |= {"points": None, "correlation": 3, "apart": 1}
    columns |= {"points of all experts": None, "their correlation": 3, "they are apart": 1}
    return "\n\n".join(
        [
            "### With exact match the disagreement is the loss",
            "Where an expert is nearly always right and exact match scores it, an answer that "
            "differs from its own is an answer that is lost. There the disagreement is the loss, "
            "measured on other examples, and an AUROC near 1 says no more than that both sets of "
            "examples are of one task. It is no evidence about text whose answers can differ and "
            "still be right. Below: Pearson's correlation of disagreement and loss, and how many "
            "points of loss they are apart in the mean.",
            markdown(Table(key="exact", title="", columns=columns, rows=rows)),
        ]
    )


def _cells(one: Sameness) -> list[Any]:
    return [one.experts, one.points, one.correlation, one.apart]


def exact_text(found: Evidence) -> str:
    """The same in a sentence; nothing where no expert is nearly always right."""
    near, every = sameness(nearly_right(found.every)), sameness(found.every)
    if near is None or near.correlation is None or every is None or every.correlation is None:
        return ""
    return (
        f"Where an expert is nearly always right by exact match ({NEARLY} and more: "
        f"{near.points} of {every.points} points) an answer that differs is an answer that is "
        "lost: the disagreement *is* the loss, on other examples (correlation "
        f"{near.correlation:.3f}; of all points {every.correlation:.3f}). An AUROC near 1 is "
        "no evidence there about text answers that can differ and still be right."
    )
