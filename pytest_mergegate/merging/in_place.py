"""One parameter of a merge, put together from the base's and the experts' task vectors."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from mergekit.merge_methods.api import merge_tensors

from pytest_mergegate.errors import GateError
from pytest_mergegate.merging.method import is_sum, linear_scales
from pytest_mergegate.merging.ties import is_ties, ties

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from torch import Tensor

    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.merging.method import Method

_BASE = ("base",)  # a tuple, so that no expert's name can equal it


def merge_parameter(method: Method, engine: Engine, parameter: str) -> Tensor:
    """The merged parameter in float32.

    Sums of task vectors are put together from the factors as they stand. Raises GateError where
    mergekit refuses.
    """
    if is_sum(method):
        return engine.mixed_weights(linear_scales(method) or {})[parameter]
    base = engine.model.base_weight(parameter)
    return merge_stack(method, base, experts_own(method, engine, parameter, base), parameter)


def experts_own(method: Method, engine: Engine, parameter: str, base: Tensor) -> dict[str, Tensor]:
    """The experts' own parameters in float32, on the CPU, in the order in which they are merged;
    ``base`` is the base's."""
    # by name, so that what an expert is dealt at random does not hang on its place in the gate;
    # slerp alone tells its two ends apart by their place
    # a plan merges some of a pool's experts: those that the method has weights for
    of_it = [n for n in engine.vectors.names if n in method.weights or not method.weights]
    names = of_it if method.name == "slerp" else sorted(of_it)
    found = {}
    for name in names:
        factors, delta = engine.vectors.factors(name, parameter), None
        if factors is not None:
            found[name] = torch.addmm(base, *factors)
            continue
        delta = engine.vectors.delta(name, parameter)
        found[name] = base if delta is None else base + delta
    return found


def merge_stack(
    method: Method, base: Tensor, experts: Mapping[str, Tensor], parameter: str
) -> Tensor:
    """``method`` on one tensor of the base and of every expert. Raises GateError."""
    if is_ties(method):
        return ties(method, base, experts)
    return by_mergekit(method, base, experts, parameter)


def by_mergekit(
    method: Method, base: Tensor, experts: Mapping[str, Tensor], parameter: str
) -> Tensor:
    """The same with mergekit's ``merge_tensors``, whatever the method. Raises GateError."""
    tensors = list(experts.values())
    ids: list[Hashable] = list(experts)
    base_index = 0 if method.name == "slerp" else None  # slerp walks from one expert to the other
    if method.takes_base:
        tensors, ids, base_index = [base, *tensors], [_BASE, *ids], 0
    # one generator state per tensor: neither their order nor what ran before may matter
    digest = hashlib.sha256(f"{method.seed}:{parameter}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        try:
            merged: Tensor = merge_tensors(
                tensors,
                method.name,
                parameters=method.mergekit_parameters,
                ids=ids,
                base_index=base_index,
                name=parameter,
            )
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise GateError(
                f"mergekit's {method.label} refuses {parameter!r} ({error})",
                fix="check the method's parameters",
            ) from None
    return merged
