"""What comes out of comparing one model's answers with another's."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Comparison over n inputs."""

    differs: tuple[bool, ...]
    """Per input: whether the answers differ."""
    divergences: tuple[float, ...]
    """Per input: KL(expert ‖ other) in nats, mean over its positions."""

    @property
    def n(self) -> int:
        """Number of inputs compared."""
        return len(self.differs)

    @property
    def kl(self) -> float:
        """Mean KL(expert ‖ other) in nats, over positions and then over inputs."""
        return math.fsum(self.divergences) / self.n

    @property
    def disagreements(self) -> int:
        """Number of inputs on which the answers differ."""
        return sum(self.differs)

    @property
    def rate(self) -> float:
        """Share of inputs on which the answers differ."""
        return self.disagreements / self.n
