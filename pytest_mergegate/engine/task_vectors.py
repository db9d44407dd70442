"""Task vectors τ = θ_i − θ₀, one parameter at a time, and what they have in conflict."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from pytest_mergegate.errors import PoolError
from pytest_mergegate.metrics import ConflictSums

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.pool.adapters import Expert

_TILE = 1 << 18
"""Elements per tile: a pair of float64 tiles stays in the cache of one core."""


class TaskVectors:
    """The experts' task vectors, read lazily from their safetensors files."""

    def __init__(self, experts: Sequence[Expert]) -> None:
        self._experts = {expert.name: expert for expert in experts}
        self._files = {e.name: safe_open(e.weights_file, framework="pt") for e in experts}

    @property
    def names(self) -> tuple[str, ...]:
        """The experts, in the pool's order."""
        return tuple(self._experts)

    def parameters(self, *names: str) -> list[str]:
        """Sorted parameters that any of the experts ``names`` (default: all) changes."""
        chosen = names or self.names
        return sorted({p for name in chosen for p in self._experts[name].modules})

    def factors(self, name: str, parameter: str) -> tuple[Tensor, Tensor] | None:
        """(s·B [outputs, rank], A [rank, inputs]) in float32; None where it is not adapted."""
        module = self._experts[name].modules.get(parameter)
        if module is None:
            return None
        file: Any = self._files[name]
        b = file.get_tensor(module.key_b).to(torch.float32)
        return b * module.scale, file.get_tensor(module.key_a).to(torch.float32)

    def delta(self, name: str, parameter: str) -> Tensor | None:
        """Dense float32 task vector of one parameter; None where it is not adapted."""
        factors = self.factors(name, parameter)
        return None if factors is None else factors[0] @ factors[1]


def pair_conflicts(vectors: TaskVectors, parameter: str) -> dict[tuple[str, str], ConflictSums]:
    """Sums behind the conflict ratios (THEORY 2) of one parameter, for every pair that changes it.

    Accumulated in float64, tile by tile.
    """
    deltas = {name: vectors.delta(name, parameter) for name in vectors.names}
    flat = {name: d.flatten() for name, d in deltas.items() if d is not None}
    for name, d in flat.items():
        if not bool(torch.isfinite(d).all()):
            raise PoolError(
                f"the product of the factors of {parameter!r} overflows float32",
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


def squared_norms(vectors: TaskVectors) -> Mapping[str, float]:
    """‖τ_i‖² of every expert, from the factors: Σ (BᵀB) ∘ (AAᵀ), in float64."""
    totals = dict.fromkeys(vectors.names, 0.0)
    for name in vectors.names:
        for parameter in vectors.parameters(name):
            factors = vectors.factors(name, parameter)
            if factors is not None:
                b, a = (factor.to(torch.float64) for factor in factors)
                totals[name] += float(((b.T @ b) * (a @ a.T)).sum())
    return totals


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
