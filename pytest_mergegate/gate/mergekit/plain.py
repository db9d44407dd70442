"""Which mergekit configurations are a gate's own method and weights, and which are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.gate.mergekit.file import Parsed


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A method as a gate file has it."""

    parameters: Mapping[str, bool | int | float]
    weights: Mapping[str, float]
    """By expert; empty where the method takes none."""


def plain(parsed: Parsed, experts: Mapping[str, str]) -> Plain | str:
    """The gate's form of a configuration, or why there is none.

    ``experts`` maps each expert's model, as written, to its name.
    """
    if why := _another_shape(parsed, experts):
        return why
    shared: dict[str, Any] = dict(parsed.data.get("parameters") or {})
    by_expert = {
        experts[entry["model"]]: {**shared, **(entry.get("parameters") or {})}
        for entry in parsed.data["models"]
        if entry["model"] in experts
    }
    values = {**shared}
    for name in dict.fromkeys(key for own in by_expert.values() for key in own):
        given = [own.get(name) for own in by_expert.values()]
        if not all(_is_scalar(value) for value in given if value is not None):
            return f"{name} is no single number"
        if name != "weight" and len(set(given)) > 1:
            return f"{name} differs from model to model"
        values[name] = given[0]
    values.pop("weight", None)
    weights = [own.get("weight") for own in by_expert.values()]
    return _weighed(parsed, values, dict(zip(by_expert, weights, strict=True)))


def _another_shape(parsed: Parsed, experts: Mapping[str, str]) -> str | None:
    data = parsed.data
    if "slices" in data:
        return "it has slices"
    if data.get("tokenizer_source") or data.get("tokenizer"):
        return "it builds a tokenizer"
    if data.get("out_dtype") not in (None, data.get("dtype")):
        return "out_dtype is another than dtype"
    listed = [entry["model"] for entry in data["models"]]
    role = parsed.traits.base
    if role in {"averaged", "optional"} and (parsed.base or not set(listed) <= set(experts)):
        how = "averages the base in" if role == "averaged" else "is given a base"
        return f"{parsed.method} {how}"
    if not set(experts) <= set(listed):
        return "its base_model is merged without being listed"
    if role in {"required", "expert"} and parsed.base is None:
        return "it has no base_model"
    return None


def _weighed(parsed: Parsed, parameters: dict[str, Any], weights: dict[str, Any]) -> Plain | str:
    given = [weight for weight in weights.values() if weight is not None]
    traits = parsed.traits
    if not traits.takes_weights:
        if given:
            return f"{parsed.method} takes no weights"
        if traits.share_parameter and traits.share_parameter not in parameters:
            return f"{traits.share_parameter} is missing"
        return Plain(parameters=parameters, weights={})
    if len(given) < len(weights):
        return "a model has no weight"
    weights = {name: float(weight) for name, weight in weights.items()}
    total = sum(weights.values())
    if traits.scales_base and not parameters.get("normalize", True) and not math.isclose(total, 1):
        return "it scales what no expert changes, too"
    return Plain(parameters=parameters, weights=weights)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float))
