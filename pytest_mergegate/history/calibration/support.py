"""How far from a score one has to go for enough recorded merges to speak of it.

An interval over all merges holds on average, and says nothing where there were none: among merges
that all kept their experts, it would promise as much to one that answers everything differently.
Losses only get worse with the score. So the worst that is to be expected at a score is what is
expected a little further on, with enough merges on the way; beyond them it is everything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from pytest_mergegate.history.calibration.observations import SAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

ENOUGH: Final = 3
"""Merges."""


def reaches(
    risks: Floats, merges: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float | None, ...], tuple[float | None, ...]]:
    """Every recorded score, and up and down to which other one there are enough merges."""
    order = np.argsort(risks, kind="stable")
    values, names = risks[order].tolist(), [merges[k] for k in order]
    at, first, counts = np.unique(risks[order], return_index=True, return_counts=True)
    last = first + counts - 1
    up = tuple(_reach(values, names, range(k, len(values))) for k in first.tolist())
    down = tuple(_reach(values, names, range(k, -1, -1)) for k in last.tolist())
    return tuple(at.tolist()), up, down


def _reach(values: Sequence[float], names: Sequence[str], way: Iterable[int]) -> float | None:
    met: set[str] = set()
    for k in way:
        met.add(names[k])
        if len(met) == ENOUGH:
            return values[k]
    return None


def around(
    risk: float,
    risks: Sequence[float],
    riskier: Sequence[float | None],
    safer: Sequence[float | None],
) -> tuple[float | None, float | None]:
    """Up and down to where there are enough merges from ``risk``; None for nowhere."""
    slack = SAME * abs(risk) if math.isfinite(risk) else 0.0
    above = int(np.searchsorted(risks, risk - slack, "left"))
    below = int(np.searchsorted(risks, risk + slack, "right")) - 1
    up = riskier[above] if above < len(risks) else None
    return up, safer[below] if below >= 0 else None
