"""What the task vectors of two experts have in conflict, parameter by parameter."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch

from pytest_mergegate.errors import PoolError
from pytest_mergegate.metrics import ConflictSums

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pytest_mergegate.engine.task_vectors import TaskVectors

_TILE = 1 << 18
"""Elements per tile: a pair of float64 tiles stays in the cache of one core."""


def pair_conflicts(vectors: TaskVectors, parameter: str) -> dict[tuple[str, str], ConflictSums]:
    """Sums behind the conflict ratios (THEORY 2) of one parameter, for every pair that changes it.

    Accumulated in float64, tile by tile.
    """
    deltas = {name: vectors.delta(name, parameter) for name in vectors.names}
    flat = {name: d.flatten() for name, d in deltas.items() if d is not None}
    for name, d in flat.items():
        if not bool(torch.isfinite(d).all()):
            raise PoolError(
                f"the task vector of {parameter!r} overflows float32",
                code="MG105",
                expert=name,
                fix="the training diverged; use an earlier checkpoint",
            )
    if not flat:
        return {}
    size = next(iter(flat.values())).numel()
    zero = torch.zeros(1, dtype=torch.float64)
    sums: dict[tuple[str, str], ConflictSums] = {}
    for start, stop in _tiles(size):
        tile = {name: d[start:stop].to(torch.float64) for name, d in flat.items()}
        for pair in combinations(vectors.names, 2):
            if pair[0] in tile or pair[1] in tile:
                a, b = (tile.get(name, zero.expand(stop - start)) for name in pair)
                part = _sums(a, b)
                sums[pair] = sums[pair] + part if pair in sums else part
    return sums


def _tiles(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, _TILE):
        yield start, min(start + _TILE, size)


def _sums(a: Tensor, b: Tensor) -> ConflictSums:
    difference = (a - b).abs()
    changed = torch.sign(a) != torch.sign(b)
    return ConflictSums(
        absolute_difference=float(difference.sum()),
        absolute_a=float(a.abs().sum()),
        absolute_b=float(b.abs().sum()),
        sign_changes=int(changed.sum()),
        conflicting=float(difference[changed].sum()),
        positions=a.numel(),
        dot=float(a @ b),
        squared_a=float(a @ a),
        squared_b=float(b @ b),
    )
