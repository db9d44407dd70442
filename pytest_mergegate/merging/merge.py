"""One merge: merged weights, how faithful they are, and the linear scale they amount to."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from mergekit.merge_methods.api import merge_tensors

from pytest_mergegate.engine.spilled import SpilledWeights
from pytest_mergegate.errors import GateError
from pytest_mergegate.merging.method import linear_scales

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, MutableMapping

    from torch import Tensor

    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.merging.method import Method

_FIDELITY_TOLERANCE = 1e-3
_ROUNDING = 4 * torch.finfo(torch.float32).eps
_SCALE_SAMPLE = 16
_BASE = ("base",)  # a tuple, so that no expert's name can equal it


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The parameters that a merge changes."""

    weights: Mapping[str, Tensor]
    fidelity: float | None
    """‖(merged − θ₀) − Σ λ_j τ_j‖ / ‖Σ λ_j τ_j‖ for methods that are linear; None otherwise."""


def merge(method: Method, engine: Engine) -> Merged:
    """Merge the pool's experts, parameter by parameter, with mergekit's ``merge_tensors``.

    Raises GateError where mergekit refuses, where a merged weight is not finite, and where a
    linear method's result is not the sum it stands for (THEORY 8, additivity).
    """
    if method.route == "official":
        from pytest_mergegate.merging.official import merge_officially

        return merge_officially(method, engine)
    weights: MutableMapping[str, Tensor] = SpilledWeights() if engine.model.is_streamed else {}
    error, norm, rounding = 0.0, 0.0, 0.0
    scales = linear_scales(method)
    for parameter in engine.vectors.parameters():
        weights[parameter] = merged = _merge_parameter(method, engine, parameter)
        if not bool(torch.isfinite(merged).all()):
            raise GateError(f"{method.label} gives NaN or infinity in {parameter!r}")
        if scales is not None and method.name != "slerp":
            expected = _weighted_sum(engine, parameter, scales)
            difference = merged.to(torch.float64) - engine.model.base_weight(parameter) - expected
            error += float(difference.square().sum())
            norm += float(expected.square().sum())
            rounding += float((merged * _ROUNDING).to(torch.float64).square().sum())
    if scales is None or method.name in {"slerp", "dare_linear", "karcher"} or norm == 0:
        return Merged(weights=weights, fidelity=None)
    fidelity = math.sqrt(error / norm)
    # a task vector much smaller than the base drowns in the round-off of their sum
    if not fidelity <= _FIDELITY_TOLERANCE + math.sqrt(rounding / norm):
        raise GateError(
            f"{method.label}: the merged weights are off the sum of the task vectors by "
            f"{fidelity:.2%}",
            fix="this merge is broken; report it with the versions of mergekit and torch",
        )
    return Merged(weights=weights, fidelity=fidelity)


def effective_scales(method: Method, engine: Engine) -> dict[str, float]:
    """λ_j of the linear merge that comes nearest to the method's (THEORY 6).

    Known for linear methods; otherwise the least-squares scale of the merged task vector on
    Σ w_j τ_j, measured on a sample of really merged tensors.
    """
    known = linear_scales(method)
    if known is not None:
        return known
    if method.config is not None:
        from pytest_mergegate.merging.official import official_scales

        return official_scales(method, engine)
    parameters = engine.vectors.parameters()
    # drawn, not every n-th: that would be the same module of every layer
    drawn = random.Random(0).sample(parameters, min(_SCALE_SAMPLE, len(parameters)))
    dot, square = 0.0, 0.0
    for parameter in drawn:
        target = _weighted_sum(engine, parameter, method.weights)
        merged = _merge_parameter(method, engine, parameter).to(torch.float64)
        dot += float(((merged - engine.model.base_weight(parameter)) * target).sum())
        square += float(target.square().sum())
    scale = dot / square if square > 0 else 0.0
    return {name: scale * weight for name, weight in method.weights.items()}


def _weighted_sum(engine: Engine, parameter: str, weights: Mapping[str, float]) -> Tensor:
    total = torch.zeros_like(engine.model.base_weight(parameter), dtype=torch.float64)
    for name, weight in weights.items():
        delta = engine.vectors.delta(name, parameter)
        if delta is not None:
            total += weight * delta.to(torch.float64)
    return total


def _merge_parameter(method: Method, engine: Engine, parameter: str) -> Tensor:
    base = engine.model.base_weight(parameter)
    tensors: list[Tensor] = []
    ids: list[Hashable] = []
    # by name, so that what an expert is dealt at random does not hang on its place in the gate;
    # slerp alone tells its two ends apart by their place
    names = engine.vectors.names if method.name == "slerp" else sorted(engine.vectors.names)
    for name in names:
        delta = engine.vectors.delta(name, parameter)
        tensors.append(base if delta is None else base + delta)
        ids.append(name)
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
            return merged
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise GateError(
                f"mergekit's {method.label} refuses {parameter!r} ({error})",
                fix="check the method's parameters",
            ) from None
