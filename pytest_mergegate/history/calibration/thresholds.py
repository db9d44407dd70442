"""Where to block so that few collapses are missed (THEORY section 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.history.calibration.observations import SAME, as_risk
from pytest_mergegate.metrics.prediction import miss_controlled_rank, miss_controlled_threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.history.calibration.observations import Observation


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The value of a score from which on to block."""

    score: str
    miss_rate: float
    value: float
    """In the score's own units; infinite where only an infinite MDS is blocked."""
    collapses: int
    """How many recorded collapses had the score."""
    pools: int
    """Of how many pools these are: each counts once, by its least risky collapse."""
    rank: int
    """The threshold is the score of the so-manieth least risky of them."""

    def blocks(self, value: float) -> bool:
        """Whether a value of the score is at least as risky, to the digits recorded. NaN is."""
        own, other = as_risk(self.score, self.value), as_risk(self.score, value)
        assert own is not None
        assert other is not None
        return not other < (own - SAME * abs(own) if math.isfinite(own) else own)


def miss_controlled(observations: Sequence[Observation], score: str, miss_rate: float) -> Threshold:
    """The threshold that a collapse of a new pool falls short of with at most a chance of
    ``miss_rate``.

    Raises:
        Undefined: ``needs_more_collapses``, with the number in the message.
        ValueError: A rate that is not in (0, 1).
    """
    collapsed = [(one.risk(score), one.pool) for one in observations if one.collapsed]
    risks = [risk for risk, _ in collapsed if risk is not None]
    pools = [pool for risk, pool in collapsed if risk is not None]
    found = miss_controlled_threshold(risks, miss_rate, pools=pools)
    value = as_risk(score, found)
    assert value is not None
    return Threshold(
        score=score,
        miss_rate=miss_rate,
        value=value,
        collapses=len(risks),
        pools=len(set(pools)),
        rank=miss_controlled_rank(len(set(pools)), miss_rate),
    )
