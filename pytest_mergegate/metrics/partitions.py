"""How few merged models keep every expert within a budget (THEORY section 5, item 7).

The curve of models against distortion is the pool's operational rate-distortion curve. The best
partitions of up to a dozen experts are found by dynamic programming over subsets, good ones of more
by merging the pair of groups with the least R²; what no partition can beat is the gap of those.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks
from ._checks import FloatArray
from .bounds import CONVERGED, enclosing_ball

Groups = tuple[tuple[int, ...], ...]

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
    curve = distortion_curve(squared_distances)
    limit += CONVERGED * float(np.max(squared_distances))
    point = next(point for point in curve if point.distortion <= limit)
    needed = next(point.models for point in curve if point.at_least <= limit)
    return Partition(
        groups=point.groups,
        worst=point.distortion,
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
    matrix = _checks.squared_distance_matrix(squared_distances)
    small = len(matrix) <= LARGEST_EXACT
    partitions = exact_partitions(matrix) if small else greedy_partitions(matrix)
    floor = distortion_floor(matrix).tolist()
    curve = []
    for distortion, groups in partitions:
        least = floor[len(groups) - 1]
        # one group, and one for each expert, can be had in one way only
        exact = small or len(groups) == 1 or least >= distortion
        curve.append(
            CurvePoint(
                models=len(groups),
                distortion=distortion,
                groups=groups,
                exact=exact,
                at_least=distortion if exact else least,
            )
        )
    return curve


def distortion_floor(squared_distances: ArrayLike) -> FloatArray:
    """Return, for 1, 2, .., N merged models, a lower bound on the worst R² of any grouping.

    Of k + 1 experts two share one of k models, whose R² is then at least a quarter of their
    squared distance; and one of k models serves at least ⌈N/k⌉ experts, whose R² is at least
    that of equal weights on them. Takes about N³ steps.

    Args:
        squared_distances: Mean squared distances D2, shape [N, N].

    Returns:
        Array [N], never rising, 0 for N models.

    Raises:
        ValueError: As ``minimum_distortion``.
    """
    matrix = _checks.squared_distance_matrix(squared_distances)
    return np.asarray(np.maximum(_packed(matrix), _crowded(matrix)))


def _packed(distances: FloatArray) -> FloatArray:
    """A quarter of the least squared distance among k + 1 experts far from each other."""
    best: FloatArray = np.zeros(len(distances))
    for start in range(len(distances)):
        nearest = distances[start].copy()
        for models in range(1, len(distances)):
            # of those picked so far, the next one is no nearer to any than to its nearest
            farthest = int(nearest.argmax())
            best[models - 1] = max(best[models - 1], nearest[farthest] / 4)
            nearest = np.minimum(nearest, distances[farthest])
    return best


def _crowded(distances: FloatArray) -> FloatArray:
    """½ αᵀ D2 α of equal weights on the ⌈N/k⌉ experts that lie closest, or less."""
    count = len(distances)
    # within[i, m-1]: the sum of the m least distances of expert i, that to itself among them
    within = np.cumsum(np.sort(distances, axis=1), axis=1)
    sizes = [-(-count // models) for models in range(1, count + 1)]
    return np.array([np.sort(within[:, m - 1])[:m].sum() / (2 * m * m) for m in sizes])


def exact_partitions(distances: FloatArray) -> list[tuple[float, Groups]]:
    """Return the least worst R² over partitions into 1, 2, .., N groups, and the partitions.

    ``distances`` are squared, shape [N, N]; time grows as 3^N.
    """
    experts = len(distances)
    full = (1 << experts) - 1
    radii = _subset_radii(distances)
    # best[k, S]: the least worst R² over partitions of S into k groups; group[k, S]: the group
    # in it that holds the first expert of S.
    best = np.full((experts + 1, full + 1), np.inf)
    group = np.zeros((experts + 1, full + 1), dtype=np.int64)
    best[0, 0] = 0.0
    for subset in range(1, full + 1):
        parts = parts_of(subset)
        worst = np.maximum(radii[parts], best[:-1, subset ^ parts])
        choice = worst.argmin(axis=1)
        best[1:, subset] = worst[np.arange(experts), choice]
        group[1:, subset] = parts[choice]
    return [
        (float(best[models, full]), _read(group, models, full)) for models in range(1, experts + 1)
    ]


def parts_of(subset: int) -> NDArray[np.int64]:
    """Return the subsets of ``subset`` that hold its first member, as bit masks."""
    first = subset & -subset
    parts = np.array([first], dtype=np.int64)
    rest = subset ^ first
    while rest:
        bit = rest & -rest
        parts = np.concatenate([parts, parts | bit])
        rest ^= bit
    return parts


def _read(group: NDArray[np.int64], models: int, subset: int) -> Groups:
    groups = []
    for left in range(models, 0, -1):
        part = int(group[left, subset])
        groups.append(_members(part))
        subset ^= part
    return tuple(groups)


def _members(subset: int) -> tuple[int, ...]:
    return tuple(index for index in range(subset.bit_length()) if subset >> index & 1)


def _subset_radii(distances: FloatArray) -> FloatArray:
    """Return R² of every subset, indexed by bit mask.

    A subset's ball is searched from the largest ball of the subsets with one member less: it
    is the same ball unless every member is on the boundary.
    """
    experts = len(distances)
    radii = np.zeros(1 << experts)
    weights = np.zeros((1 << experts, experts))
    for subset in range(1, 1 << experts):
        members = list(_members(subset))
        if len(members) == 1:
            weights[subset, members] = 1.0
            continue
        smaller = [subset ^ (1 << member) for member in members]
        start = weights[max(smaller, key=radii.__getitem__)]
        ball = enclosing_ball(distances[np.ix_(members, members)], start[members])
        radii[subset], weights[subset, members] = ball.value, ball.weights
    return radii


@dataclass(frozen=True, kw_only=True)
class _Group:
    members: tuple[int, ...]
    weights: FloatArray
    """On all experts"""
    squared_radius: float


def greedy_partitions(distances: FloatArray) -> list[tuple[float, Groups]]:
    """Return partitions into 1, 2, .., N groups and their worst R², from squared distances."""
    groups = {
        index: _Group(members=(index,), weights=unit, squared_radius=0.0)
        for index, unit in enumerate(np.eye(len(distances)))
    }
    partitions = [_partition(groups)]
    # A union's R² is only computed when its lower bound has become the least of all: most
    # never are.
    queue = [(_line(distances, groups[a], groups[b])[0], a, b) for b in groups for a in range(b)]
    heapq.heapify(queue)
    solved: dict[tuple[int, int], _Group] = {}
    while len(groups) > 1:
        _, a, b = heapq.heappop(queue)
        if a not in groups or b not in groups:
            continue
        if (a, b) not in solved:
            solved[a, b] = _union(distances, groups[a], groups[b])
            heapq.heappush(queue, (solved[a, b].squared_radius, a, b))
            continue
        del groups[a], groups[b]
        merged, new = solved[a, b], len(distances) + len(partitions)
        for other, group in groups.items():
            heapq.heappush(queue, (_line(distances, group, merged)[0], other, new))
        groups[new] = merged
        partitions.append(_partition(groups))
    return partitions[::-1]


def _partition(groups: dict[int, _Group]) -> tuple[float, Groups]:
    worst = max(group.squared_radius for group in groups.values())
    return worst, tuple(sorted(group.members for group in groups.values()))


def _line(distances: FloatArray, a: _Group, b: _Group) -> tuple[float, FloatArray]:
    """Return the best of ½ αᵀ D2 α between two groups' weights: a lower bound of the union's R²."""
    across = float(a.weights @ distances @ b.weights)
    low, high = a.squared_radius, b.squared_radius
    between = across - low - high
    share = 0.0 if low >= high else 1.0
    if between > 0:
        share = min(1.0, max(0.0, (across - 2 * low) / (2 * between)))
    bound = (1 - share) ** 2 * low + share**2 * high + share * (1 - share) * across
    return bound, (1 - share) * a.weights + share * b.weights


def _union(distances: FloatArray, a: _Group, b: _Group) -> _Group:
    members = tuple(sorted(a.members + b.members))
    indices = list(members)
    _, start = _line(distances, a, b)
    ball = enclosing_ball(distances[np.ix_(indices, indices)], start[indices])
    weights = np.zeros(len(distances))
    weights[indices] = ball.weights
    # Round-off must not make a union look tighter than its parts.
    squared_radius = max(ball.value, a.squared_radius, b.squared_radius)
    return _Group(members=members, weights=weights, squared_radius=squared_radius)
