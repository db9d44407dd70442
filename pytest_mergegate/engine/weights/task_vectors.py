"""Task vectors τ = θ_i − θ₀, one parameter at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import torch

from pytest_mergegate.pool.changes import Computed, Factors, Offset, Replacement, Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from pytest_mergegate.engine.weights.computed import ComputedDeltas
    from pytest_mergegate.pool.changes import Change
    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.pool.tensors import StoredTensors


class TaskVectors:
    """The experts' task vectors, read lazily from their safetensors files and the base's."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._base = pool.base.tensors
        self._experts: dict[str, Expert] = {expert.name: expert for expert in pool.experts}
        self._computing = Lock()

    @cached_property
    def _computed(self) -> ComputedDeltas:
        from pytest_mergegate.engine.weights.computed import ComputedDeltas

        return ComputedDeltas(self._pool)

    def rename(self, parameters: Iterable[str]) -> None:
        """Have the parameters of full checkpoints go by the loaded model's names, ``parameters``.

        transformers renames and fuses the tensors of some architectures when it loads them; what
        the files' names leave out would count as unchanged.
        """
        names = list(parameters)
        for name, expert in self._experts.items():
            if not expert.is_adapter and set(expert.changes) != set(names):
                changes = {p: Computed(parameter=p, keys=()) for p in names}
                self._experts[name] = replace(expert, changes=changes)

    @property
    def names(self) -> tuple[str, ...]:
        """The experts, in the pool's order."""
        return tuple(self._experts)

    def parameters(self, *names: str) -> list[str]:
        """Sorted parameters that any of the experts ``names`` (default: all) changes."""
        chosen = names or self.names
        return sorted({p for name in chosen for p in self._experts[name].changes})

    def changing(self, parameter: str, names: Iterable[str]) -> list[str]:
        """Those of the experts ``names`` that change ``parameter``."""
        return [name for name in names if parameter in self._experts[name].changes]

    def factors(self, name: str, parameter: str) -> tuple[Tensor, Tensor] | None:
        """(L [rows, rank], R [rank, columns]) in float32 with τ = L @ R; None where the expert
        leaves ``parameter`` alone, or where its τ has no factors."""
        expert = self._experts[name]
        change = expert.changes.get(parameter)
        if not isinstance(change, Factors) or change.magnitude_key or change.base_key:
            return None
        return _factors(change, expert.tensors)

    def delta(self, name: str, parameter: str) -> Tensor | None:
        """Dense float32 τ of one parameter, in its shape; None where it is left alone."""
        expert = self._experts[name]
        change = expert.changes.get(parameter)
        if change is None:
            return None
        if isinstance(change, Computed):
            with self._computing:  # of a whole expert, the first time
                return self._computed.delta(expert, parameter)
        return self._delta(change, expert.tensors)

    def mix(self, parameter: str, scales: Mapping[str, float]) -> Tensor | None:
        """Dense float32 Σ λ_j τ_j of one parameter; None where none of the experts changes it."""
        total: Tensor | None = None
        for name in self.changing(parameter, scales):
            factors, scale = self.factors(name, parameter), scales[name]
            if factors is not None and total is not None:
                total.addmm_(*factors, alpha=scale)
                continue
            delta = factors[0] @ factors[1] if factors else self.delta(name, parameter)
            assert delta is not None
            total = scale * delta if total is None else total.add_(delta, alpha=scale)
        return total

    def _delta(self, change: Change, tensors: StoredTensors) -> Tensor:
        match change:
            case Factors():
                return self._product(change, tensors)
            case Offset(key=key, scale=scale):
                return _read(tensors, key) * scale
            case Replacement(key=key, parameter=parameter):
                return _read(tensors, key) - _read(self._base, parameter)
            case Rows(key=key, parameter=parameter, rows=rows):
                own = _read(self._base, parameter)
                delta = torch.zeros_like(own)
                index = torch.tensor(rows)
                delta[index] = _read(tensors, key) - own[index]
                return delta
            case _:
                raise AssertionError(change)

    def _product(self, change: Factors, tensors: StoredTensors) -> Tensor:
        """s·B·A, or what DoRA makes of it: every output's weights brought to a trained length."""
        left, right = _factors(change, tensors)
        product = left @ right
        if change.magnitude_key is None and change.base_key is None:
            return product
        own = _read(self._base, change.parameter)
        carried = own if change.base_key is None else _read(tensors, change.base_key)
        moved = carried + product
        if change.magnitude_key is not None:
            inputs = 0 if change.transposed else 1
            length = torch.linalg.norm(moved.double(), dim=inputs, keepdim=True)
            magnitude = _read(tensors, change.magnitude_key).double().reshape(length.shape)
            moved = (moved * (magnitude / length)).float()
        return moved - own


def _factors(change: Factors, tensors: StoredTensors) -> tuple[Tensor, Tensor]:
    a, b = _read(tensors, change.key_a), _read(tensors, change.key_b) * change.scale
    return (a.T, b.T) if change.transposed else (b, a)


def _read(tensors: StoredTensors, name: str) -> Tensor:
    return torch.from_numpy(tensors.floats(name))
