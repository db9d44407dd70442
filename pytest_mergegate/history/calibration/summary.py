"""Everything that recorded merges say, for people and as JSON."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pytest_mergegate.history.calibration.fit import Calibration, calibrate
from pytest_mergegate.history.calibration.observations import Observation, comparison_of
from pytest_mergegate.history.calibration.performance import (
    Performance,
    Threshold,
    Validation,
    miss_controlled,
    performance,
    validate,
)
from pytest_mergegate.metrics import Undefined

SCHEMA: Final = "pytest-mergegate/calibration/1"
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A result that there is not, and why."""

    reason: str
    """A word of ``Undefined``."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What some observations say."""

    observations: tuple[Observation, ...]
    calibration: Calibration | Missing
    validation: Validation | Missing
    thresholds: Mapping[str, Threshold | Missing]
    """By score."""
    performances: Mapping[str, Performance | Missing]
    """By score; empty where they were not asked for."""

    @property
    def says_nothing(self) -> bool:
        """Whether there is no result at all."""
        results = (self.calibration, *self.thresholds.values(), *self.performances.values())
        return all(isinstance(result, Missing) for result in results)

    def count(self, of: str) -> int:
        """How many different merges, pools or experts there are."""
        return len({getattr(one, of) for one in self.observations})

    @property
    def collapses(self) -> int:
        """How many losses are collapses."""
        return sum(one.collapsed for one in self.observations)

    def plain(self) -> dict[str, Any]:
        """As JSON has it: what is infinite or undefined is null, with a word beside it."""
        counts = {f"{name}s": self.count(name) for name in ("merge", "pool", "expert")}
        return {
            "schema": SCHEMA,
            "compared_by": comparison_of(self.observations),
            **counts,
            "losses": len(self.observations),
            "collapses": self.collapses,
            "calibration": _plain(self.calibration),
            "validation": _plain(self.validation),
            "thresholds": {name: _plain(found) for name, found in self.thresholds.items()},
            "performances": {name: _plain(found) for name, found in self.performances.items()},
        }


def summarise(
    observations: Sequence[Observation],
    scores: Sequence[str],
    *,
    score: str = "disagreement",
    confidence: float = 0.90,
    miss_rate: float = 0.1,
    with_performance: bool = False,
) -> Summary:
    """All that ``observations`` say; thresholds and performance of all ``scores``."""
    judged = scores if with_performance else ()
    return Summary(
        observations=tuple(observations),
        calibration=_try(calibrate, observations, score, confidence),
        validation=_try(validate, observations, score, confidence),
        thresholds={name: _try(miss_controlled, observations, name, miss_rate) for name in scores},
        performances={name: _try(performance, observations, name, miss_rate) for name in judged},
    )


def _try(
    find: Callable[[Sequence[Observation], str, float], Found],
    observations: Sequence[Observation],
    score: str,
    level: float,
) -> Found | Missing:
    try:
        return find(observations, score, level)
    except Undefined as error:
        return Missing(reason=error.reason, message=error.message)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        found = {name: getattr(value, name) for name in names}
        endless = [n for n, v in found.items() if isinstance(v, float) and math.isinf(v)]
        return {n: _plain(v) for n, v in found.items()} | {f"{n}_infinite": True for n in endless}
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
