"""The scores that are to predict collapse, and the losses they are held against, as vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.history.calibration.observations import is_collapse
from pytest_mergegate.history.registry.lines import SCORES as NEEDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from pytest_mergegate.history.study.losses import Point


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number that is to predict collapse: the larger, the worse."""

    field: str
    label: str
    falls: bool = False
    """The smaller, the worse."""

    @property
    def needs(self) -> str:
        """What it takes to compute it."""
        return NEEDS[self.field]

    def of(self, points: Iterable[Point]) -> npt.NDArray[np.float64]:
        """One number a point, turned so that larger is riskier; NaN where there is none."""
        raw = [point.expert.score(self.field) for point in points]
        found = np.array([math.nan if value is None else value for value in raw], dtype=np.float64)
        return -found if self.falls else found

    def known(self, points: Sequence[Point]) -> list[Point]:
        """The points that have it."""
        there = ~np.isnan(self.of(points))
        return [point for point, known in zip(points, there, strict=True) if known]


SCORES = (
    Score(field="disagreement", label="disagreement"),
    Score(field="kl", label="KL(expert, merge)"),
    Score(field="token_agreement", label="token agreement (lower is worse)", falls=True),
    Score(field="total_variation", label="total variation of tokens"),
    Score(field="relative_distortion", label="relative distortion"),
    Score(field="surrogate", label="surrogate's disagreement"),
    Score(field="surrogate_kl", label="surrogate's KL"),
    Score(field="states", label="states forecast, disagreement"),
    Score(field="states_kl", label="states forecast, KL"),
    Score(field="mds", label="MDS"),
    Score(field="mean_distance", label="mean hidden distance"),
    Score(field="shift", label="shift of the states"),
    Score(field="norm", label="task-vector norm"),
    Score(field="magnitude_change_ratio", label="magnitude change ratio"),
    Score(field="sign_change_ratio", label="sign change ratio"),
    Score(field="conflicting_magnitude_ratio", label="conflicting magnitude ratio"),
    Score(field="cosine", label="cosine (lower is worse)", falls=True),
)


def scores_of(points: Iterable[Point]) -> tuple[Score, ...]:
    """Those that any of the points has: merges that were recorded before one was lack it."""
    every = list(points)
    return tuple(score for score in SCORES if score.known(every))


def losses_of(points: Iterable[Point]) -> npt.NDArray[np.float64]:
    """In percent."""
    return np.array([point.loss for point in points], dtype=np.float64)


def collapses_of(points: Iterable[Point]) -> npt.NDArray[np.bool_]:
    """Which points collapsed."""
    return np.array([is_collapse(point.loss) for point in points], dtype=bool)
