"""Intervals and tests that draw again: whole clusters, or the labels of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import numpy.typing as npt

RESAMPLES, PERMUTATIONS, SEED = 2000, 9999, 0
_BLOCK = 1 << 21
"""Numbers of relabelled pairs in memory at one time."""


def cluster_interval(
    statistic: Callable[[npt.NDArray[np.float64]], float],
    *clusters: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float]:
    """Return the bootstrap percentile interval of a statistic over whole clusters.

    ``statistic`` is given how often each point was drawn. With several ways to cluster (by pool,
    by expert) each is drawn by itself and a point counts as often as the product of its clusters'
    numbers (the pigeonhole bootstrap), which is what crossed clusters take: the points of one
    expert come and go together in every pool, and those of one pool for every expert. Resamples
    without a statistic (NaN) are left out.

    Raises:
        ValueError: No clustering, one of another length, or bad settings.
    """
    confidence = _checks.fraction("confidence", confidence)
    resamples = _checks.count("resamples", resamples, least=1)
    clusters = tuple(_checks.items("clusters", each) for each in clusters)
    if not clusters or len({len(each) for each in clusters}) != 1 or not clusters[0]:
        raise ValueError("clusters must be one or more sequences of one length, not empty")
    generator = np.random.default_rng(seed)
    places, shares = [], []
    for each in clusters:
        numbers: dict[Hashable, int] = {}
        places.append(np.array([numbers.setdefault(name, len(numbers)) for name in each]))
        shares.append(np.full(len(numbers), 1 / len(numbers)))
    found = np.empty(resamples)
    for k in range(resamples):
        times = np.ones(len(clusters[0]))
        for place, equal in zip(places, shares, strict=True):
            times *= generator.multinomial(len(equal), equal)[place]
        found[k] = statistic(times) if times.any() else np.nan
    if np.isnan(found).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(found, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Mantel:
    """How two matrices over the same things go together."""

    r: float
    """Pearson correlation over the pairs"""
    p: float
    """Two-sided: the share of relabellings whose correlation is at least as far from zero"""
    pairs: int
    """Pairs that both matrices know"""


def mantel(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
) -> Mantel:
    """Return the Mantel test of two symmetric matrices; the diagonals play no part.

    The pairs of a matrix are not independent: each thing is in many of them. So the things of the
    second matrix are relabelled, and with them all pairs. NaN marks a pair that is not known; each
    relabelling is judged on the pairs that are known in both matrices after it, and correlations
    over fewer pairs weigh less (Student's t of each is compared).

    Raises:
        ValueError: Not two square matrices of one size over three or more things, fewer than three
            known pairs, or pairs that are all alike.
    """
    a, b = _unscaled("first", first), _unscaled("second", second)
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] != a.shape[1] or len(a) < 3:
        raise ValueError(f"two square matrices of one size are needed, got {a.shape}, {b.shape}")
    permutations = _checks.count("permutations", permutations, least=1)
    i, j = np.triu_indices(len(a), 1)
    x, generator = a[i, j], np.random.default_rng(seed)
    (observed,), (pairs,) = _correlations(x, b[i, j][None])
    if np.isnan(observed):
        raise ValueError("three known pairs that differ are needed in both matrices")
    limit, beyond, judged = _student(abs(observed), pairs) - 1e-9, 0, 0
    block = max(1, _BLOCK // len(x))
    for start in range(0, permutations, block):
        rows = min(block, permutations - start)
        order = generator.permuted(np.tile(np.arange(len(a)), (rows, 1)), axis=1)
        drawn, counts = _correlations(x, b[order[:, i], order[:, j]])
        known = ~np.isnan(drawn)
        beyond += int((_student(np.abs(drawn[known]), counts[known]) >= limit).sum())
        judged += int(known.sum())
    return Mantel(r=float(observed), p=(beyond + 1) / (judged + 1), pairs=int(pairs))


def _unscaled(name: str, matrix: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The matrix over a power of two, so that round-off can be told from small numbers."""
    found = _checks.numbers(name, matrix)
    if np.isinf(found).any():
        raise ValueError(f"{name} must not be infinite")
    size = np.frexp(np.nanmax(np.abs(found), initial=0.0))[1]
    return np.asarray(np.ldexp(found, -size))


def _student(r: Any, pairs: Any) -> Any:
    """Student's t of a correlation over so many pairs."""
    return r * np.sqrt((pairs - 2) / np.maximum(1 - r**2, 1e-12))


def _correlations(
    x: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Pearson's of ``x`` with every row of ``ys``, where both are known, and over how many."""
    known = ~np.isnan(x) & ~np.isnan(ys)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    dx, dy = (np.where(known, each, 0.0) for each in (np.broadcast_to(x, ys.shape), ys))
    dx = np.where(known, dx - dx.sum(axis=1, keepdims=True) / count, 0.0)
    dy = np.where(known, dy - dy.sum(axis=1, keepdims=True) / count, 0.0)
    sizes = np.sqrt((dx**2).sum(axis=1) * (dy**2).sum(axis=1))
    enough = (known.sum(axis=1) >= 3) & (sizes > 1e-12)
    found = np.where(enough, (dx * dy).sum(axis=1) / np.where(enough, sizes, 1.0), np.nan)
    return found, known.sum(axis=1)
