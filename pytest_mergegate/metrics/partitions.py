"""How few merged models keep every expert within a budget (THEORY section 5, item 7).

The curve of models against distortion is the pool's operational rate-distortion curve.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _scales
from ._checks import FloatArray
from .enclosing_ball import CONVERGED
from .exact_partitions import Groups, exact_partitions
from .greedy_partitions import greedy_partitions
from .partition_floor import distortion_floor

# Subset dynamic programming visits 3^N pairs of subsets.
LARGEST_EXACT = 12


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The best (or, where not exact, a good) way to serve a pool with so many models."""

    models: int
    """Number of merged models"""
    distortion: float
    """The largest R² of a group"""
    groups: Groups
    """The experts of each model, ascending"""
    exact: bool
    """Whether no other grouping does better"""
    at_least: float
    """What no grouping into so many can beat; the distortion itself where that is exact"""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The fewest merged models that keep every expert within a budget."""

    groups: Groups
    """The experts of each model, ascending"""
    worst: float
    """The largest R² of a group, within the budget"""
    exact: bool
    """Whether fewer models are impossible (else: the greedy search found no fewer)"""
    at_least: int
    """Fewer models than these cannot keep the budget"""


def fewest_merges(squared_distances: ArrayLike, budget: float) -> Partition:
    """Return the smallest partition whose groups all have R² ≤ B.

    Exact for N ≤ 12, and then the best such partition; greedy above. Single experts have
    R² = 0, so there always is one. Equality up to round-off (1e-12 of Δ²) counts as within.

    Args:
        squared_distances: Mean squared distances D2, shape [N, N].
        budget: Largest allowed mean squared distance to an expert, at least 0.

    Raises:
        ValueError: As ``minimum_distortion``, or a negative budget.
    """
    limit = _checks.at_least_zero("budget", budget)
    matrix, unit = _scaled(squared_distances)
    curve = _curve(matrix)
    limit = float(_scales.shifted(limit, -unit)) + CONVERGED * float(matrix.max())
    point = next(point for point in curve if point.distortion <= limit)
    needed = next(point.models for point in curve if point.at_least <= limit)
    return Partition(
        groups=point.groups,
        worst=math.ldexp(point.distortion, unit),
        exact=needed == point.models,
        at_least=needed,
    )


def distortion_curve(squared_distances: ArrayLike) -> list[CurvePoint]:
    """Return the distortion that 1, 2, .., N merged models can reach.

    Exact for N ≤ 12; above, groups are merged greedily, the pair with the least R² first, and
    each point says what no grouping can beat. The distortion never rises with the number of models.

    Args:
        squared_distances: Mean squared distances D2, shape [N, N].

    Raises:
        ValueError: As ``minimum_distortion``.
    """
    matrix, unit = _scaled(squared_distances)
    return [
        replace(
            point,
            distortion=math.ldexp(point.distortion, unit),
            at_least=math.ldexp(point.at_least, unit),
        )
        for point in _curve(matrix)
    ]


def _scaled(squared_distances: ArrayLike) -> tuple[FloatArray, int]:
    """Return the matrix over a power of two where float64 would run out, and its exponent."""
    matrix = _checks.squared_distance_matrix(squared_distances)
    unit = _scales.spare(matrix)
    return np.ldexp(matrix, -unit), unit


def _curve(matrix: FloatArray) -> list[CurvePoint]:
    small = len(matrix) <= LARGEST_EXACT
    partitions = exact_partitions(matrix) if small else greedy_partitions(matrix)
    floor = distortion_floor(matrix).tolist()
    return [
        _point(distortion, groups, floor[len(groups) - 1], small)
        for distortion, groups in partitions
    ]


def _point(distortion: float, groups: Groups, floor: float, small: bool) -> CurvePoint:
    # one group, and one for each expert, can be had in one way only
    exact = small or len(groups) == 1 or floor >= distortion
    return CurvePoint(
        models=len(groups),
        distortion=distortion,
        groups=groups,
        exact=exact,
        at_least=distortion if exact else floor,
    )
