"""A number, or the reason why there is none: what flows between stages and into the report."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from pytest_mergegate.metrics import Undefined

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number with its interval, or ``reason`` why it is undefined; never NaN."""

    number: float | None
    """May be infinite (an MDS is, where every similarity is zero)."""
    interval: Interval | None = None
    reason: str | None = None
    standard_error: float | None = None
    """Of a number that was estimated from a sample."""

    def __post_init__(self) -> None:
        if self.number is not None and math.isnan(self.number):
            raise ValueError("a NaN is no value; give the reason instead")
        if (self.number is None) == (self.reason is None):
            raise ValueError("a value is a number, or a reason why there is none")

    @classmethod
    def missing(cls, reason: str) -> Self:
        """An undefined value."""
        return cls(number=None, reason=reason)

    def times(self, factor: float) -> Self:
        """The same in another unit; a negative ``factor`` turns the interval round."""
        if self.number is None:
            return self
        ends = None
        if self.interval is not None:
            low, high = sorted(end * factor + 0.0 for end in self.interval)
            ends = (low, high)
        error = None if self.standard_error is None else self.standard_error * abs(factor)
        return replace(self, number=self.number * factor + 0.0, interval=ends, standard_error=error)

    @classmethod
    def computed(
        cls, number: Callable[[], float], interval: Callable[[], Interval] | None = None
    ) -> Self:
        """The result of ``number``, undefined for the reason that the metric gives."""
        try:
            result = float(number())
            if math.isnan(result):
                return cls.missing("not_a_number")
            return cls(number=result, interval=interval() if interval else None)
        except Undefined as undefined:
            return cls.missing(undefined.reason)
