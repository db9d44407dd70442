"""mergekit configurations: of a method, or as a file says, with the pool's models put in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.pool.pool import Pool


def configuration(
    method: Method, experts: Mapping[str, str], base: str, dtype: str
) -> dict[str, Any]:
    """The mergekit configuration that ``method`` stands for.

    ``experts`` are mergekit's references by name, in the order of the merge. Raises GateError for
    a method that mergekit does not have.
    """
    if method.traits.own:
        raise GateError(f"mergekit has no merge method {method.name!r}")
    if method.config is not None:
        filled: dict[str, Any] = _filled(method.config, base, experts)
        return filled
    inputs: list[dict[str, Any]] = [{"model": reference} for reference in experts.values()]
    if method.takes_weights:
        for entry, name in zip(inputs, experts, strict=True):
            entry["parameters"] = {"weight": float(method.weights[name])}
    config: dict[str, Any] = {"merge_method": method.name, "models": inputs}
    if method.takes_base:
        config["base_model"] = base
    elif method.traits.base == "expert":
        config["base_model"] = inputs[0]["model"]
    shared = {k: v for k, v in method.mergekit_parameters.items() if k != "weight"}
    return {**config, **({"parameters": shared} if shared else {}), "dtype": dtype}


def _filled(part: Any, base: str, experts: Mapping[str, str]) -> Any:
    """``part`` with ``{"expert": NAME}`` replaced by its reference, NAME None by the base's."""
    if isinstance(part, dict):
        if set(part) == {"expert"}:
            return base if part["expert"] is None else experts[part["expert"]]
        return {key: _filled(value, base, experts) for key, value in part.items()}
    return [_filled(value, base, experts) for value in part] if isinstance(part, list) else part


def check_layers(method: Method, pool: Pool) -> None:
    """Raise GateError for a configuration whose slices do not add up to the base's layers."""
    slices = (method.config or {}).get("slices")
    layers = pool.base.config.get("num_hidden_layers")
    if not slices or not isinstance(layers, int):
        return
    ranges = [part["sources"][0]["layer_range"] for part in slices]
    stacked = sum(end - first for first, end in ranges)
    if stacked != layers:
        raise GateError(
            f"the slices add up to {stacked} layers, the base has {layers}; merges that stack or "
            "drop layers cannot be gated yet",
            fix="gate the merge of whole models, before layers are stacked",
        )


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


def _vocabulary(file: Path) -> dict[str, int] | None:
    """Tokens and their ids; None where the file tells of none."""
    from transformers import PreTrainedTokenizerFast

    try:
        vocabulary: dict[str, int] = PreTrainedTokenizerFast(tokenizer_file=str(file)).get_vocab()
    except Exception:  # tokenizers raises nothing more specific
        return None
    return vocabulary
