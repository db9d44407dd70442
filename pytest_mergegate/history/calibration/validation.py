"""Whether the intervals hold: every loss foretold by a calibration that has not seen its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.history.calibration.fit import calibrate, folds, grouping, with_score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.history.calibration.fit import Groups
    from pytest_mergegate.history.calibration.observations import Observation


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What came of it."""

    groups: Groups
    """What was left out together."""
    observations: int
    coverage: float
    """The share of losses in their intervals; merges count alike."""
    width: float
    """Of the intervals, on average, in percentage points."""
    error: float
    """Mean absolute error, in percentage points."""
    constant_error: float
    """The same of the mean loss of the rest."""


def validate(
    observations: Sequence[Observation], score: str = "disagreement", confidence: float = 0.90
) -> Validation:
    """Calibrate without one group after the other (without a twentieth of many) and foretell it.

    Raises:
        Undefined: ``needs_more_merges``: too few are left.
    """
    used = with_score(observations, score, confidence)
    groups = grouping(used)
    rows, weights = [], []
    for fold in folds(used, groups):
        rest = [one for one, out in zip(used, fold, strict=True) if not out]
        fitted = calibrate(rest, score, confidence)
        mean = float(np.mean([one.loss for one in rest]))
        own = [one for one, out in zip(used, fold, strict=True) if out]
        for one in own:
            told = fitted.predict(one.label, one.expert, one.scores[score])
            held = told.low <= one.loss <= told.high
            errors = (abs(one.loss - told.loss), abs(one.loss - mean))
            rows.append((held, told.high - told.low, *errors))
            weights.append(1 / sum(other.merge == one.merge for other in own))
    held, width, error, constant = np.average(np.array(rows), axis=0, weights=weights).tolist()
    return Validation(
        groups=groups,
        observations=len(rows),
        coverage=held,
        width=width,
        error=error,
        constant_error=constant,
    )
