"""What is held against the measured losses, and how well it ranks them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from points import COLLAPSE, FEW_INPUTS, INPUTS, is_worse

from pytest_mergegate.metrics.ranking import auroc, auroc_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from points import Point


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number that is to foretell collapse: the larger, the worse."""

    field: str
    label: str
    needs: str
    falls: bool = False
    """The smaller, the worse."""

    def of(self, points: Sequence[Point]) -> npt.NDArray[np.float64]:
        """One number a point; NaN where there is none."""
        raw = [getattr(point, self.field) for point in points]
        found = np.array([math.nan if value is None else value for value in raw])
        return -found if self.falls else found


MERGED, FACTORS, STATES = "the merge", "the factors", "the experts' states"
WEIGHTS = "the weights"
SCORES = (
    Score(field="disagreement", label=f"disagreement, {INPUTS} inputs", needs=MERGED),
    Score(field="few_disagreement", label=f"disagreement, {FEW_INPUTS} inputs", needs=MERGED),
    Score(field="kl", label="KL(expert ‖ merge)", needs=MERGED),
    Score(field="relative_distortion", label="relative distortion", needs=MERGED),
    Score(field="surrogate", label="surrogate's disagreement", needs=FACTORS),
    Score(field="surrogate_kl", label="surrogate's KL", needs=FACTORS),
    Score(field="states", label="states forecast, disagreement", needs=STATES),
    Score(field="states_kl", label="states forecast, KL", needs=STATES),
    Score(field="mds", label="MDS", needs=STATES),
    Score(field="distance", label="mean hidden distance", needs=STATES),
    Score(field="magnitude_change_ratio", label="magnitude change ratio", needs=WEIGHTS),
    Score(field="sign_change_ratio", label="sign change ratio", needs=WEIGHTS),
    Score(field="conflicting_magnitude_ratio", label="conflicting magnitude ratio", needs=WEIGHTS),
    Score(field="cosine", label="cosine (lower is worse)", needs=WEIGHTS, falls=True),
)


def collapsed(points: Sequence[Point], *, own: bool = False) -> npt.NDArray[np.bool_]:
    """Which points did, on fresh examples or (``own``) on the gate's."""
    losses = (point.loss if own else point.fresh_loss for point in points)
    return np.array([is_worse(loss, COLLAPSE) for loss in losses], dtype=bool)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How well a score ranks some points."""

    auroc: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.auroc:.3f} ({low:.3f} to {high:.3f})"


def rank(score: Score, points: Sequence[Point]) -> float | None:
    """AUROC; None where the score, or one kind of point, does not exist."""
    known = _known(score, points)
    return known and auroc(*known[:2])


def ranking(score: Score, points: Sequence[Point]) -> Ranking | None:
    """The same with its interval."""
    known = _known(score, points)
    return known and Ranking(auroc=auroc(*known[:2]), interval=auroc_interval(*known))


def _known(score: Score, points: Sequence[Point]) -> tuple[Any, Any, list[str]] | None:
    """Score, collapse and pool of the points that have the score."""
    there = [p for p, value in zip(points, score.of(points), strict=True) if not np.isnan(value)]
    # the small certificate looked at the fresh examples, so it is held against the others
    bad = collapsed(there, own=score.field.startswith("few_"))
    if len(set(bad.tolist())) < 2:
        return None
    return score.of(there), bad, [point.pool for point in there]
