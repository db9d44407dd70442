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
    """Two crossed random effects, their variances estimated by expectation maximisation."""
    names, place = np.unique(np.asarray(methods), return_inverse=True)
    others, other_place = np.unique(np.asarray(experts), return_inverse=True)
    split = len(names)
    design = np.zeros((len(residuals), split + len(others)))
    rows = np.arange(len(residuals))
    design[rows, place] = design[rows, split + other_place] = 1.0
    solved = _solve(design, residuals, np.arange(design.shape[1]) >= split)
    return Fitted(
        methods=_effects(names.tolist(), solved, slice(None, split), 0),
        experts=_effects(others.tolist(), solved, slice(split, None), 1),
        noise=solved.noise,
    )


@dataclass(frozen=True, kw_only=True)
class _Solved:
    means: Floats
    spread: Floats
    """Variances of the means."""
    variances: Floats
    """Of either kind."""
    noise: float


def _effects(names: Sequence[str], solved: _Solved, part: slice, kind: int) -> Effects:
    pairs = zip(solved.means[part].tolist(), solved.spread[part].tolist(), strict=True)
    effects = (Effect(mean=mean, variance=variance) for mean, variance in pairs)
    unseen = Effect(mean=0.0, variance=float(solved.variances[kind]))
    return Effects(known=dict(zip(names, effects, strict=True)), unseen=unseen)


def _solve(design: Floats, residuals: Floats, kinds: npt.NDArray[np.bool_]) -> _Solved:
    """Henderson's equations, again and again; ``kinds`` says which columns are experts."""
    gram, right = design.T @ design, design.T @ residuals
    noise = float(np.mean(residuals**2)) or 1.0
    variances = np.array([noise / 4, noise / 4])
    square, count = float(residuals @ residuals), len(residuals)
    for _ in range(ROUNDS):
        ratio = noise / variances[kinds.astype(int)]
        inverse = np.linalg.inv(gram + np.diag(ratio))
        means = inverse @ right
        spread = noise * np.diag(inverse)
        noise = max((square - float(means @ right)) / count, 1e-6)
        for kind in (0, 1):
            own = kinds == bool(kind)
            variances[kind] = max(float(np.mean(means[own] ** 2 + spread[own])), 1e-6)
    return _Solved(means=means, spread=spread, variances=variances, noise=noise)
