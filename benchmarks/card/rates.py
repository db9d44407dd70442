"""Shares with intervals that know of pools, and what an alarm is worth at a base rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.metrics import disagreement_interval
from pytest_mergegate.metrics.resampling import cluster_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Flags = npt.NDArray[np.bool_]

RESAMPLES = 1000
LEAST_POOLS = 5
"""A bootstrap over fewer says nothing."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many of some things are so."""

    count: int
    of: int
    interval: tuple[float, float] | None
    """At 95 %; None where there are too few pools to tell."""

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.of

    def shown(self) -> str:
        """Both counts; with share and interval where there are pools enough."""
        if self.interval is None:
            return f"{self.count} of {self.of}"
        low, high = self.interval
        return f"{self.count} of {self.of}: {self.value:.1%} ({low:.1%} to {high:.1%})"


def rate_of(which: Flags, pools: Sequence[str]) -> Rate | None:
    """The share of what is so, with the wider ends of two intervals; None of nothing.

    Clopper-Pearson's takes everything for independent; the bootstrap over pools is a point where
    all or none are so.
    """
    if not len(which):
        return None
    count, interval = int(which.sum()), None
    if len(set(pools)) >= LEAST_POOLS:
        exact = disagreement_interval(count, len(which))
        drawn = cluster_interval(
            lambda times: float(times @ which / times.sum()), pools, resamples=RESAMPLES
        )
        interval = min(exact[0], drawn[0]), max(exact[1], drawn[1])
    return Rate(count=count, of=len(which), interval=interval)


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Both ways to be wrong; None where there is nothing to be wrong about."""

    false: Rate | None
    """Alarms, of what is fine."""
    missed: Rate | None
    """No alarm, of what is not."""


def errors_of(raised: Flags, bad: Flags, pools: Sequence[str]) -> Errors:
    """Of alarms and what they were to tell, each thing with its pool."""
    of = np.array(pools, dtype=object)
    return Errors(
        false=rate_of(raised[~bad], of[~bad].tolist()),
        missed=rate_of(~raised[bad], of[bad].tolist()),
    )


def precision(recall: float, false: float, base: float) -> float | None:
    """The chance that an alarm is a true one where ``base`` of all is bad; None without alarms."""
    right, wrong = recall * base, false * (1 - base)
    return right / (right + wrong) if right + wrong else None


def precision_range(errors: Errors, base: float) -> tuple[float | None, ...] | None:
    """Precision as measured, at the bad ends of both intervals, and at the good ones."""
    false, missed = errors.false, errors.missed
    if false is None or missed is None:
        return None
    pairs = [(missed.value, false.value)]
    if missed.interval is not None and false.interval is not None:
        pairs += [
            (missed.interval[1], false.interval[1]),
            (missed.interval[0], false.interval[0]),
        ]
    return tuple(precision(1 - miss, alarm, base) for miss, alarm in pairs)
