"""mergekit configurations: of a method, or as a file says, with the pool's models put in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_mergegate.merging.linked_models import LinkedModels
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.pool.pool import Pool


def configuration(method: Method, pool: Pool, models: LinkedModels) -> dict[str, Any]:
    """The mergekit configuration that ``method`` stands for, its models by their linked paths."""
    if method.config is not None:
        filled = _filled(method.config, models)
        assert isinstance(filled, dict)
        return filled
    # in the order of the merge in place; slerp alone tells its two ends apart by their place
    names = pool.names if method.name == "slerp" else sorted(pool.names)
    inputs: list[dict[str, Any]] = [{"model": models.experts[name]} for name in names]
    if method.takes_weights:
        for entry, name in zip(inputs, names, strict=True):
            entry["parameters"] = {"weight": float(method.weights[name])}
    shared = {k: v for k, v in method.mergekit_parameters.items() if k != "weight"}
    config: dict[str, Any] = {
        "merge_method": method.name,
        "models": inputs,
        "parameters": shared,
        "dtype": pool.spec.dtype,
    }
    if method.takes_base:
        config["base_model"] = models.base
    elif method.name == "slerp":
        config["base_model"] = inputs[0]["model"]
    return config


def _filled(part: Any, models: LinkedModels) -> Any:
    """``part`` with ``{"expert": NAME}`` replaced by its reference, NAME None by the base's."""
    if isinstance(part, dict):
        if set(part) == {"expert"}:
            name = part["expert"]
            return models.base if name is None else models.experts[name]
        return {key: _filled(value, models) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, models) for value in part]
    return part


def check_layers(method: Method, pool: Pool) -> None:
    """Raise GateError for a configuration whose slices do not add up to the base's layers."""
    slices = (method.config or {}).get("slices")
    layers = pool.base.config.get("num_hidden_layers")
    if not slices or not isinstance(layers, int):
        return
    stacked = sum(high - low for low, high in _ranges(slices))
    if stacked != layers:
        raise GateError(
            f"the slices add up to {stacked} layers, the base has {layers}; merges that stack or "
            "drop layers cannot be gated yet",
            fix="gate the merge of whole models, before layers are stacked",
        )


def _ranges(slices: list[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    for part in slices:
        low, high = part["sources"][0]["layer_range"]
        yield int(low), int(high)


def check_tokenizer(method: Method, pool: Pool, merged: Path) -> None:
    """Raise GateError where a configuration gave the merge another vocabulary than the base's."""
    config = method.config or {}
    if not (config.get("tokenizer_source") or config.get("tokenizer")):
        return
    own, new = (_vocabulary(folder / "tokenizer.json") for folder in (pool.base.path, merged))
    if own is None or new is None or own != new:
        raise GateError(
            "the configuration gives the merge another vocabulary than the base's, which cannot "
            "be gated yet",
            fix="leave tokenizer and tokenizer_source out where all models share one vocabulary",
        )


def _vocabulary(file: Path) -> Any:
    """Tokens and their ids; None where the file tells of none."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = data["model"]["vocab"]
        added = {token["content"]: token["id"] for token in data.get("added_tokens") or ()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = vocabulary if isinstance(vocabulary, dict) else {str(k): k for k in vocabulary}
    return {**known, **added}
