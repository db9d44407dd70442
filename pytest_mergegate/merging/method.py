"""A merge method with everything it is run with; needs no mergekit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from pytest_mergegate.common.plain import result


@result
class Method:
    """One merge method with everything it is run with."""

    label: str
    """Name and parameters, unique in the gate."""
    name: str
    """mergekit's name."""
    parameters: Mapping[str, bool | int | float]
    """As given in the gate, but for ``weight``."""
    weights: Mapping[str, float]
    """Per expert, as mergekit is handed them; relative shares for methods without weights."""
    seed: int
    takes_base: bool
    takes_weights: bool
    route: Literal["in_place", "official"] = "in_place"
    """``official`` has mergekit write the whole merge, in a process of its own."""
    config: Mapping[str, Any] | None = None
    """A mergekit configuration to be run as it stands, its models named as in ``MergekitFile``."""

    @property
    def mergekit_parameters(self) -> dict[str, Any]:
        """Parameters in the form that ``merge_tensors`` takes."""
        parameters: dict[str, Any] = dict(self.parameters)
        if self.takes_weights:
            parameters["weight"] = dict(self.weights)
        if self.name == "slerp":
            first, second = self.weights.values()
            parameters.setdefault("t", second / (first + second))
        return parameters

    @property
    def plain(self) -> dict[str, Any]:
        """As plain data, from which ``Method(**plain)`` is the same again."""
        return {**asdict(self), "parameters": dict(self.parameters), "weights": dict(self.weights)}


def with_shares(method: Method, shares: Mapping[str, float]) -> Method:
    """The same method with the mean weight kept and ``shares`` (summing to one) between experts."""
    mean = sum(method.weights.values()) / len(method.weights)
    weights = {name: mean * len(shares) * share for name, share in shares.items()}
    return replace(method, weights=weights)


def is_sum(method: Method) -> bool:
    """Whether a method with ``linear_scales`` is just that sum of task vectors, exactly.

    What mergekit wrote is judged itself, not the sum that it should be.
    """
    if method.route == "official":
        return False
    return method.name in {"linear", "task_arithmetic"} and linear_scales(method) is not None


def has_surrogate(method: Method) -> bool:
    """Whether some sum θ₀ + Σ λ_j τ_j can stand for the method before it is merged: not for an
    average that scales θ₀ itself, nor for a configuration that may do anything to any tensor."""
    scales_base = method.name == "linear" and linear_scales(method) is None
    return method.config is None and not scales_base


def linear_scales(method: Method) -> dict[str, float] | None:
    """λ_j with merged = θ₀ + Σ λ_j τ_j, exact or in expectation; None where the method is not so.

    slerp counts as linear: at usual LoRA sizes it equals the average (FINDINGS).
    """
    if method.config is not None:  # its weights may differ from tensor to tensor
        return None
    weights = dict(method.weights)
    total = sum(weights.values())
    match method.name:
        case "linear":
            normalize = method.parameters.get("normalize", True)
            return {n: w / total for n, w in weights.items()} if normalize else _shifted(weights)
        case "slerp":
            t = method.mergekit_parameters["t"]
            return dict(zip(weights, (1 - t, t), strict=True))
        case "karcher":
            return dict.fromkeys(weights, 1 / len(weights))
        case "multislerp" if method.parameters.get("normalize_weights", True):
            return {n: w / total for n, w in weights.items()}
        case "task_arithmetic" | "dare_linear":
            scale = float(method.parameters.get("lambda", 1.0))
            if method.parameters.get("normalize", False):
                scale /= total if abs(total) >= 1e-8 else 1.0
            return {name: scale * weight for name, weight in weights.items()}
        case _:
            return None


def _shifted(weights: dict[str, float]) -> dict[str, float] | None:
    """An unnormalised average scales θ₀ too, unless the weights sum to one."""
    return weights if math.isclose(sum(weights.values()), 1.0) else None
