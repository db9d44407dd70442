"""One parameter of a merge, put together from the base's and the experts' task vectors."""

import pkgutil
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeAlias

import torch
from mergekit.merge_methods.api import merge_tensors
from torch import Tensor

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.engine.weights.mixing import FactoredTensor, PlacedWeights
from pytest_mergegate.merging.drawing import seeded
from pytest_mergegate.merging.method import Method, is_sum, linear_scales
from pytest_mergegate.merging.own_method import merge_by_function

Arithmetic: TypeAlias = Callable[
    [Method, FactoredTensor, Mapping[str, FactoredTensor], Tensor], object
]
"""Writes one merged parameter to a place, from the base's and the experts' own."""
_BASE = ("base",)  # a tuple, so that no expert's name can equal it


def lazy_weights(
    method: Method,
    engine: Engine,
    names: Sequence[str],
    note: Callable[[str, Tensor], object] = lambda *_: None,
) -> PlacedWeights:
    """The merged parameters ``names``, rounded as the model holds them; ``note`` sees every one.

    Making one raises GateError where mergekit refuses.
    """

    def put(parameter: str, place: Tensor) -> None:
        put_parameter(method, engine, parameter, place)
        note(parameter, place)

    return PlacedWeights(names, engine.model, put, alone=one_at_a_time(method))


def own_arithmetic(method: Method) -> Arithmetic | None:
    """Our own arithmetic of a method; None where mergekit has to be asked, or a function of the
    team's own."""
    traits = method.traits
    unknown = {n for n, value in method.parameters.items() if n not in traits.parameters and value}
    if traits.arithmetic is None or unknown:
        return None
    function: Arithmetic = pkgutil.resolve_name(traits.arithmetic)
    return function


def one_at_a_time(method: Method) -> bool:
    """Whether parameters must be merged one by one: mergekit draws from torch's only generator, and
    what a function of the team's own does nobody knows."""
    return not is_sum(method) and own_arithmetic(method) is None


def put_parameter(method: Method, engine: Engine, parameter: str, place: Tensor) -> None:
    """Write the merged parameter to ``place``, on the CPU, rounded to its dtype.

    Sums of task vectors are put together from the factors as they stand. Raises GateError where
    mergekit refuses.
    """
    if is_sum(method):
        engine.mixed_weights(linear_scales(method) or {}).put(parameter, place)
        return
    experts = experts_rows(method, engine, parameter)
    if arithmetic := own_arithmetic(method):
        arithmetic(
            method, FactoredTensor(engine.model.held_weight(parameter).cpu()), experts, place
        )
    else:
        base = engine.model.base_weight(parameter)
        whole = {name: rows.put(torch.empty_like(base)) for name, rows in experts.items()}
        place.copy_(_of_whole_tensors(method, base, whole, parameter))


def merge_parameter(method: Method, engine: Engine, parameter: str) -> Tensor:
    """The merged parameter, in float32 on the CPU. Raises GateError where mergekit refuses."""
    place = torch.empty(engine.model.parameters[parameter].shape)
    put_parameter(method, engine, parameter, place)
    return place


def experts_rows(method: Method, engine: Engine, parameter: str) -> dict[str, FactoredTensor]:
    """The experts' own parameters, in the order in which they are merged."""
    # a plan merges some of a pool's experts: those that the method has weights for
    merged = [n for n in engine.vectors.names if n in method.weights or not method.weights]
    return {
        name: engine.mixed_weights({name: 1.0}).rows(parameter) for name in method.in_order(merged)
    }


def drawn(parameters: Sequence[str], count: int) -> list[str]:
    """At most so many of them: not every n-th, which would be the same module of every layer."""
    return random.Random(0).sample(parameters, min(count, len(parameters)))


def merge_stack(
    method: Method, base: Tensor, experts: Mapping[str, Tensor], parameter: str
) -> Tensor:
    """``method`` on one tensor of the base and of every expert. Raises GateError."""
    arithmetic = own_arithmetic(method)
    if arithmetic is None:
        return _of_whole_tensors(method, base, experts, parameter)
    merged = torch.empty(base.shape)
    arithmetic(
        method,
        FactoredTensor(base),
        {name: FactoredTensor(own, whole=True) for name, own in experts.items()},
        merged,
    )
    return merged


def _of_whole_tensors(
    method: Method, base: Tensor, experts: Mapping[str, Tensor], parameter: str
) -> Tensor:
    merged_by = by_mergekit if method.root is None else merge_by_function
    return merged_by(method, base, experts, parameter)


def by_mergekit(
    method: Method, base: Tensor, experts: Mapping[str, Tensor], parameter: str
) -> Tensor:
    """The same with mergekit's ``merge_tensors``, whatever the method. Raises GateError."""
    tensors = list(experts.values())
    ids: list[Hashable] = list(experts)
    base_index = 0 if method.traits.base == "expert" else None
    if method.takes_base:
        tensors, ids, base_index = [base, *tensors], [_BASE, *ids], 0
    with seeded(method, parameter):
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
