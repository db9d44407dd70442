"""Effects of methods and experts, drawn towards none as far as there is little to tell them by."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # pydantic reads it
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

ROUNDS: Final = 60
"""Of expectation maximisation; by then nothing moves."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What is known of one method or one expert, in scales of the residuals."""

    mean: float
    variance: float


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Of one kind: the methods, or the experts."""

    known: Mapping[str, Effect]
    unseen: Effect

    def of(self, name: str) -> Effect:
        """That of ``name``; of one that was not seen no more than how far they differ."""
        return self.known.get(name, self.unseen)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Both kinds, and what they leave over."""

    methods: Effects
    experts: Effects
    noise: float
    """Variance."""


def fit_effects(residuals: Floats, methods: Sequence[str], experts: Sequence[str]) -> Fitted:
    """Two crossed random effects, their variances estimated by expectation maximisation.

    Henderson's equations are solved again and again.
    """
    names, place = np.unique(np.asarray(methods), return_inverse=True)
    others, other_place = np.unique(np.asarray(experts), return_inverse=True)
    split, count = len(names), len(residuals)
    design = np.zeros((count, split + len(others)))
    design[np.arange(count), place] = design[np.arange(count), split + other_place] = 1.0
    gram, right = design.T @ design, design.T @ residuals
    parts = (slice(None, split), slice(split, None))
    noise, square = float(np.mean(residuals**2)) or 1.0, float(residuals @ residuals)
    variances = [noise / 4, noise / 4]
    for _ in range(ROUNDS):
        ratio = noise / np.repeat(variances, [split, len(others)])
        inverse = np.linalg.inv(gram + np.diag(ratio))
        means = inverse @ right
        spread = noise * np.diag(inverse)
        noise = max((square - float(means @ right)) / count, 1e-6)
        variances = [max(float(np.mean(means[p] ** 2 + spread[p])), 1e-6) for p in parts]

    def effects(known: npt.NDArray[np.str_], part: slice, unseen: float) -> Effects:
        pairs = zip(means[part].tolist(), spread[part].tolist(), strict=True)
        found = (Effect(mean=mean, variance=variance) for mean, variance in pairs)
        return Effects(
            known=dict(zip(known.tolist(), found, strict=True)),
            unseen=Effect(mean=0.0, variance=unseen),
        )

    return Fitted(
        methods=effects(names, parts[0], variances[0]),
        experts=effects(others, parts[1], variances[1]),
        noise=noise,
    )
