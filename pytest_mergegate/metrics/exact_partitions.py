"""The best partitions of up to a dozen experts, by dynamic programming over subsets."""

import numpy as np
from numpy.typing import NDArray

from ._checks import FloatArray
from .enclosing_ball import enclosing_ball

Groups = tuple[tuple[int, ...], ...]


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
        radii[subset], weights[subset, members] = ball.squared_radius, ball.weights
    return radii
