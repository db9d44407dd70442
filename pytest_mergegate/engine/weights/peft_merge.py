"""PEFT's own merge of an adapter, with nothing of a stranger's configuration but plain values."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.weights.plain_adapters import plain_configuration, refused
from pytest_mergegate.pool.adapters import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pytest_mergegate.pool.experts import Expert

_MERGE_TOLERANCE = 1e-3
# these look at the base's numbers while they are made, and are bounded by its sizes
_NO_SKELETON = frozenset(("BOFT", "SHIRA"))
_ALLOCATED = 16


def merged_by_peft(module: Any, expert: Expert) -> dict[str, Tensor]:
    """Parameters after PEFT merged the adapter, checked against PEFT's forward without a merge.

    ``module`` is the base, and is used up. Raises PoolError for tensors that PEFT has no place
    for, or lacks, and where merged and unmerged model differ; PEFT's own errors pass through.
    """
    stored = _stored(expert)
    with torch.device("meta"):
        _check_shapes(type(module)(module.config), stored, expert)
    model = _adapted(module, expert)
    set_peft_model_state_dict(model, stored)
    held = get_peft_model_state_dict(model, save_embedding_layers=False)
    if odd := sorted(set(held) ^ set(stored)):
        raise _odd(expert, odd[0], missing=odd[0] in held)
    for key, value in stored.items():
        if not torch.equal(held[key], value.to(held[key].dtype)):
            raise refused(expert, f"loaded, {key!r} is not what is stored")
    model.eval()
    with torch.inference_mode():
        expected = _outputs(model)
        merged = model.merge_and_unload()
        found = _outputs(merged)
    error = float((found - expected).abs().max()) / max(1e-6, float(expected.abs().max()))
    if not error <= _MERGE_TOLERANCE:
        raise refused(expert, f"merged, it answers differently from unmerged (by {error:.1%})")
    return {name: p.detach() for name, p in merged.named_parameters()}


def _adapted(module: Any, expert: Expert) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's own, between it and transformers
        return get_peft_model(module, plain_configuration(expert), autocast_adapter_dtype=False)


def _check_shapes(skeleton: Any, stored: Mapping[str, Tensor], expert: Expert) -> None:
    """Raise PoolError where the configuration makes other tensors than are stored.

    ``skeleton`` is the base without its numbers, and so is what PEFT makes here: a configuration
    of a few letters can ask for gigabytes.
    """
    if expert.config["peft_type"] in _NO_SKELETON:
        return
    model = _adapted(skeleton, expert)
    # where AdaLoRA has let ranks go, what is stored is smaller than what was begun with
    allocated = expert.kind == "adalora" and bool(expert.config.get("rank_pattern"))
    if allocated:  # its masks are looked up, in numbers that are not there
        model.active_peft_config.rank_pattern = None
    made = get_peft_model_state_dict(model, save_embedding_layers=False)
    for key in sorted(made.keys() & stored.keys()):
        asked, held = list(made[key].shape), list(stored[key].shape)
        kept = allocated and made[key].numel() <= _ALLOCATED * stored[key].numel()
        if asked != held and not kept:
            raise refused(expert, f"{key!r} is stored as {held}, its configuration says {asked}")
    if lacking := sorted(made.keys() - stored.keys()):
        raise _odd(expert, lacking[0], missing=True)


def _odd(expert: Expert, key: str, *, missing: bool) -> PoolError:
    return PoolError(
        f"tensor {key!r} {'is missing' if missing else 'matches nothing in the base'}",
        code="MG103" if missing else "MG102",
        expert=expert.name,
        where=WEIGHTS,
        fix="save the adapter again with PEFT's save_pretrained",
    )


def _stored(expert: Expert) -> dict[str, Tensor]:
    """All tensors as they are: some methods keep whole numbers (SHiRA's places)."""
    found: dict[str, Tensor] = {}
    for path in expert.tensors.files:
        with safe_open(path, framework="pt") as file:
            found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    return found


def _outputs(model: Any) -> Tensor:
    config = model.config
    ids = torch.arange(1, 6).remainder(int(config.vocab_size))[None]
    extra = {"decoder_input_ids": ids[:, :3]} if config.is_encoder_decoder else {}
    outputs: Tensor = model(input_ids=ids, **extra)[0]
    return outputs
