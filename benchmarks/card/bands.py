"""Alarms by how much was lost, and the intervals of the losses that decide."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from card.alarms import DEFAULT, DISAGREEMENT
from card.beds import EVERY
from card.losses import SPLITS, summary
from card.made import markdown
from card.scores import losses_of
from pytest_mergegate.history.calibration.observations import COLLAPSE
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from card.beds import Evidence
    from card.losses import Predicted, Predictions
    from pytest_mergegate.history.study.losses import Point

LIMIT = -COLLAPSE
EDGES = (-inf, 0.0, 5.0, 10.0, 20.0, 25.0, LIMIT, 35.0, 50.0, inf)
"""Percent lost. A collapse loses more than the limit: an edge belongs to the band below it."""
NEAR = [(low, high) for low, high in pairwise(EDGES) if LIMIT - 10 <= low <= LIMIT]
"""The bands beside the limit; the last is of collapses."""
DECIDING = (5.0, 50.0)
_ROUNDING = 1e-9
"""Percent: what is lost to round-off, as for collapses."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """The points that lost more than ``low`` and at most ``high`` percent."""

    low: float
    high: float
    points: int
    alarms: int

    @property
    def label(self) -> str:
        """In words; which bands are collapses is said."""
        if self.low == -inf:
            return "nothing, or gained"
        told = f"over {self.low:g}" if self.high == inf else f"{self.low:g} to {self.high:g}"
        return f"{told} %" + (", collapsed" if self.low >= LIMIT else "")

    @property
    def share(self) -> float:
        """Of the points, those that raise an alarm."""
        return self.alarms / self.points

    @property
    def shown(self) -> str | None:
        """How many of the points raise an alarm."""
        if not self.points:
            return None
        return f"{self.alarms} of {self.points} ({self.share:.0%})"


def is_within(loss: float, low: float, high: float) -> bool:
    """Whether a loss, negative percent, is of more than ``low`` and at most ``high``."""
    return low + _ROUNDING < -loss <= high + _ROUNDING


def band_of(points: Sequence[Point], low: float, high: float) -> Band:
    """What the default gate does in one band."""
    known = DISAGREEMENT.known(points)
    there = np.array([is_within(loss, low, high) for loss in losses_of(known)], dtype=bool)
    alarms = there & (DISAGREEMENT.of(known) >= DEFAULT)
    return Band(low=low, high=high, points=int(there.sum()), alarms=int(alarms.sum()))


def bands_part(found: Evidence) -> str:
    """How many alarms in every band, by bed."""
    rows: list[list[Any]] = []
    for edges in pairwise(EDGES):
        bands = [band_of(points, *edges) for points in found.columns.values()]
        rows.append([bands[0].label, *(band.shown for band in bands)])
    heads = dict.fromkeys(["lost", *found.columns])
    return "\n\n".join(
        [
            "### The points that raise an alarm, by what they lost",
            markdown(Table(key="bands", title="", columns=heads, rows=rows)),
            "A loss on the edge of two bands is in the milder one.",
        ]
    )


def bands_text(found: Evidence) -> str:
    """The bands beside the limit, in a sentence."""
    *below, above = (band_of(found.every, *edges) for edges in NEAR)
    if not all(band.points for band in (*below, above)):
        return ""
    told = " and ".join(f"{band.share:.0%} of the losses of {band.label}" for band in below)
    return (
        f"Near the limit of {LIMIT:g} %: {told} raise an alarm; of the collapses of "
        f"{above.low:g} to {above.high:g} %, {1 - above.share:.0%} raise none."
    )


def deciding_part(predictions: Predictions) -> str:
    """Coverage and width where losses are neither small nor total."""
    low, high = DECIDING
    rows: list[list[Any]] = []
    for split in SPLITS:
        for bed in [*predictions.beds, *([None] if len(predictions.beds) > 1 else [])]:
            of = predictions.of(split, DISAGREEMENT.field, bed)
            cells = deciding_cells(of)
            if cells:
                rows.append([split, bed or EVERY, *cells])
    columns: dict[str, int | None] = {"left out": None, "bed": None, "losses": None}
    columns |= {"covered": None, "mean width": 1, "other losses": None, "others covered": None}
    columns["others' mean width"] = 1
    return "\n\n".join(
        [
            f"### From the disagreement, losses of {low:g} to {high:g} % alone",
            "The losses that decide about a merge, apart from those of next to nothing and of next "
            "to all. They are chosen by the loss itself, which no interval knows, so that an "
            "interval that covers nine of ten losses need not cover nine of ten of these.",
            markdown(Table(key="deciding", title="", columns=columns, rows=rows, labels=2)),
        ]
    )


def deciding_cells(of: Sequence[Predicted]) -> list[Any]:
    """Number, coverage and mean width in the deciding band, and outside of it; nothing of none."""
    inside = [one for one in of if is_within(one.loss, *DECIDING)]
    outside = [one for one in of if not is_within(one.loss, *DECIDING)]
    if not inside:
        return []
    cells: list[Any] = []
    for part in (inside, outside):
        told = summary(part) if part else None
        cells += [len(part), told and f"{told.coverage:.1%}", told and told.width]
    return cells
