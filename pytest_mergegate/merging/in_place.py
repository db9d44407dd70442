"""One parameter of a merge, put together from the base's and the experts' task vectors."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from mergekit.merge_methods.api import merge_tensors

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.weights.mixing import LazyWeights, PlacedWeights, Rows
from pytest_mergegate.merging.method import is_sum, linear_scales
from pytest_mergegate.merging.ties import is_ties, put_ties, ties

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.merging.method import Method

_BASE = ("base",)  # a tuple, so that no expert's name can equal it


def lazy_weights(
    method: Method,
    engine: Engine,
    names: Sequence[str],
    note: Callable[[str, Tensor], object] = lambda *_: None,
) -> LazyWeights:
    """The merged parameters ``names``, rounded as the model holds them; ``note`` sees every one.

    Making one raises GateError where mergekit refuses.
    """

    def put(parameter: str, place: Tensor) -> None:
        put_parameter(method, engine, parameter, place)
        note(parameter, place)

    def make(parameter: str) -> Tensor:
        held = engine.model.parameters[parameter]
        place = torch.empty(held.shape, dtype=held.dtype)
        put(parameter, place)
        return place

    if engine.model.device.type == "cpu" and is_ours(method):
        return PlacedWeights(names, engine.model, put)
    return LazyWeights(names, make)


def is_ours(method: Method) -> bool:
    """Whether several parameters may be merged at a time: mergekit draws from torch's only
    generator."""
    return is_sum(method) or is_ties(method)


def put_parameter(method: Method, engine: Engine, parameter: str, place: Tensor) -> None:
    """Write the merged parameter to ``place``, on the CPU, rounded to its dtype.

    Sums of task vectors are put together from the factors as they stand. Raises GateError where
    mergekit refuses.
    """
    if is_sum(method):
        engine.mixed_weights(linear_scales(method) or {}).put(parameter, place)
    elif is_ties(method):
        base = Rows(engine.model.held_weight(parameter).cpu())
        put_ties(method, base, experts_rows(method, engine, parameter), place)
    else:
        own = engine.model.base_weight(parameter)
        experts = {n: torch.empty_like(own) for n in _merged(method, engine)}
        for name, rows in experts_rows(method, engine, parameter).items():
            rows.put(experts[name])
        place.copy_(by_mergekit(method, own, experts, parameter))


def merge_parameter(method: Method, engine: Engine, parameter: str) -> Tensor:
    """The merged parameter, in float32 on the CPU. Raises GateError where mergekit refuses."""
    place = torch.empty(engine.model.parameters[parameter].shape)
    put_parameter(method, engine, parameter, place)
    return place


def experts_rows(method: Method, engine: Engine, parameter: str) -> dict[str, Rows]:
    """The experts' own parameters, in the order in which they are merged."""
    return {n: engine.expert_weights(n).rows(parameter) for n in _merged(method, engine)}


def _merged(method: Method, engine: Engine) -> list[str]:
    # by name, so that what an expert is dealt at random does not hang on its place in the gate;
    # slerp alone tells its two ends apart by their place
    # a plan merges some of a pool's experts: those that the method has weights for
    of_it = [n for n in engine.vectors.names if n in method.weights or not method.weights]
    return of_it if method.name == "slerp" else sorted(of_it)


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
