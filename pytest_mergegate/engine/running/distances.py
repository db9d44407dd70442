"""How far apart two models' answers to the same inputs are, and what that says of all inputs
(THEORY 6 and 10)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import result
from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.sections import EXACT


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says to one input."""

    text: str
    cut: bool
    """Whether it was cut at the limit on its length, so that the rest of it is not known."""


@result
class Distances:
    """Distances of answers in [0, 1], one entry an input."""

    comparison: str
    """How they are compared (``ExpertSpec.comparison``)."""
    seen: tuple[float, ...]
    """Of the answers as far as they were read."""
    least: tuple[float, ...]
    """What it is at least, whatever an answer that was cut would go on to say."""
    most: tuple[float, ...]

    @classmethod
    def exact(cls, differs: Sequence[bool], cut: Sequence[bool]) -> Self:
        """Of answers that are the same or not; one that was cut may still go on to differ."""
        seen = tuple(map(float, differs))
        most = tuple(float(other or was) for other, was in zip(differs, cut, strict=True))
        return cls(comparison=EXACT, seen=seen, least=seen, most=most)

    def __add__(self, more: Self) -> Self:
        added = {name: getattr(self, name) + getattr(more, name) for name in _PER_INPUT}
        return replace(self, **added)

    def first(self, count: int) -> Self:
        """Of the first ``count`` inputs."""
        return replace(self, **{name: getattr(self, name)[:count] for name in _PER_INPUT})

    @property
    def as_seen(self) -> Self:
        """As if nothing had been cut."""
        return replace(self, least=self.seen, most=self.seen)

    @property
    def n(self) -> int:
        """Number of inputs."""
        return len(self.seen)

    @property
    def cut(self) -> int:
        """Inputs whose distance is not known, since an answer was cut."""
        return sum(low < high for low, high in zip(self.least, self.most, strict=True))

    @property
    def mean(self) -> float:
        """The mean distance: where answers are the same or not, the share that differs."""
        return math.fsum(self.seen) / self.n

    @property
    def mean_least(self) -> float:
        """The mean of what the distances are at least."""
        return math.fsum(self.least) / self.n

    @property
    def mean_most(self) -> float:
        """The mean of what the distances are at most."""
        return math.fsum(self.most) / self.n

    def disagreement(self, confidence: float) -> Value:
        """The mean distance with its two-sided interval, whose ends count what was cut at its best
        and at its worst."""
        ends = [
            metrics.disagreement_interval(round(math.fsum(of)), self.n, confidence=confidence)
            if self.comparison == EXACT
            else metrics.mean_interval(of, confidence=confidence)
            for of in (self.least, self.most)
        ]
        return Value(number=self.mean, interval=(ends[0][0], ends[1][1]))

    def upper(self, confidence: float) -> float:
        """The one-sided bound on the mean distance, counting what was cut at its worst."""
        if self.comparison == EXACT:
            differing = round(math.fsum(self.most))
            return metrics.disagreement_bound(differing, self.n, confidence=confidence)
        return metrics.mean_bound(self.most, confidence=confidence)


_PER_INPUT = ("seen", "least", "most")
Compare = Callable[[Sequence[Answer], Sequence[Answer]], Distances]
"""Of an expert's answers and another model's to the same inputs."""
