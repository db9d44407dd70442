"""Good partitions of many experts, by merging the pair of groups with the least R²."""

import heapq
from dataclasses import dataclass

import numpy as np

from ._checks import FloatArray
from .enclosing_ball import enclosing_ball
from .exact_partitions import Groups


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
    squared_radius = max(ball.squared_radius, a.squared_radius, b.squared_radius)
    return _Group(members=members, weights=weights, squared_radius=squared_radius)
