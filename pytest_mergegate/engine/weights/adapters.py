"""PEFT's own merge of an adapter, with nothing of a stranger's configuration but plain values.

Whatever PEFT would import, fetch or match as a regular expression stays behind, both where PEFT
merges in this process and where mergekit has it merge in another.
"""

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from torch import Tensor

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import strings
from pytest_mergegate.pool.adapters import COMPUTED, CONFIG, WEIGHTS, is_within, saved_modules
from pytest_mergegate.pool.changes import ExpertFactors
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.lora import adapted_modules
from pytest_mergegate.pool.patterns import matches_fully, pattern_value

_MERGE_TOLERANCE = 1e-3
# these look at the base's numbers while they are made, and are bounded by its sizes
_NO_SKELETON = frozenset(("BOFT", "SHIRA"))
_ALLOCATED = 16
_LARGEST_RANK = 1 << 14
# what PEFT would import, fetch or match as a regular expression, or what only training needs;
# the modules are named outright instead
_NEVER_TAKEN = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
        *("megatron_config", "megatron_core", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("runtime_config", "peft_version", "peft_type"),
    )
)
# PEFT looks a module's full name up in these where no expression matches it
_BY_FULL_NAME = ("block_size_pattern", "n_frequency_pattern")
# numbers that size no tensor, or that PEFT itself holds against the weight's size
_UNBOUNDED = re.compile(r".*(seed|_key|alpha|step|n_frequency)|tinit|tfinal|deltaT")
# PEFT puts these into regular expressions as they are; with anything else they name no module
_MODULE_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)
_TASKS = frozenset(
    ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
)


def merged_by_peft(module: Any, expert: Expert) -> dict[str, Tensor]:
    """Parameters after PEFT merged the adapter, checked against PEFT's forward without a merge.

    ``module`` is the base, and is used up. Raises PoolError for tensors that PEFT has no place
    for, or lacks, and where merged and unmerged model differ; PEFT's own errors pass through.
    """
    # all tensors as they are: some methods keep whole numbers (SHiRA's places)
    stored = stored_state(expert)
    with torch.device("meta"):
        _check_shapes(type(module)(module.config), stored, expert)
    model = _adapted(module, expert)
    put_state(model, stored, expert)
    model.eval()
    with torch.inference_mode():
        expected = _outputs(model)
        merged = model.merge_and_unload()
        found = _outputs(merged)
    error = float((found - expected).abs().max()) / max(1e-6, float(expected.abs().max()))
    if not error <= _MERGE_TOLERANCE:
        raise refused(expert, f"merged, it answers differently from unmerged (by {error:.1%})")
    return {name: p.detach() for name, p in merged.named_parameters()}


def stored_state(expert: Expert) -> dict[str, Tensor]:
    """All tensors of an adapter, under PEFT's names."""
    held = {k: t for path in expert.tensors.files for k, t in load_file(path).items()}
    stored = expert.tensors.stored_names
    return {name: held[stored.get(name, name)] for name in expert.tensors}


def put_state(
    model: Any, stored: Mapping[str, Tensor], expert: Expert, adapter_name: str = "default"
) -> None:
    """Put the tensors that are ``stored_state`` of an adapter into a model of PEFT's.

    Raises PoolError for tensors that PEFT has no place for, lacks, or makes others of: it leaves
    out what it does not know.
    """
    set_peft_model_state_dict(model, dict(stored), adapter_name=adapter_name)
    held, copies = (
        get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=all_too)
        for all_too in (False, True)
    )
    # beside an embedding that is adapted, PEFT saves what it stands on
    held |= {key: copies[key] for key in stored.keys() & copies.keys()}
    if odd := sorted(set(held) ^ set(stored)):
        raise _odd(expert, odd[0], missing=odd[0] in held)
    for key, value in stored.items():
        if not torch.equal(held[key], value.to(held[key].dtype)):
            raise refused(expert, f"loaded, {key!r} is not what is stored")


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


def _outputs(model: Any) -> Tensor:
    config = model.config
    ids = torch.arange(1, 6).remainder(int(config.vocab_size))[None]
    extra = {"decoder_input_ids": ids[:, :3]} if config.is_encoder_decoder else {}
    outputs: Tensor = model(input_ids=ids, **extra)[0]
    return outputs


def plain_configuration(expert: Expert) -> Any:
    """The adapter's configuration with plain values only, and every module named in full.

    Raises PoolError where a size in it is out of all proportion.
    """
    kind = str(expert.config["peft_type"])
    assert kind == "LORA" or kind in COMPUTED
    known = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    fields = {f.name for f in dataclasses.fields(known) if f.init} - _NEVER_TAKEN
    values = {name: value for name, value in expert.config.items() if name in fields}
    saved = [name for name in saved_modules(values) if _MODULE_NAME.fullmatch(name)]
    if "modules_to_save" in fields:
        values["modules_to_save"] = saved or None
    trained = {p.removesuffix(".weight") for p in expert.changes if p.endswith(".weight")}
    adapted = sorted(m for m in trained if not is_within(m, saved))
    if kind == "LORA":
        adapted = adapted_modules(expert.tensors)
        stacks = [p for p, c in expert.changes.items() if isinstance(c, ExpertFactors)]
        held = {stack.rpartition(".")[0] for stack in stacks}
        adapted = [m for m in adapted if not is_within(m, held)]
        values["target_parameters"] = stacks or None
        patterned = [*adapted, *stacks]
    else:
        patterned = adapted
    values["target_modules"] = adapted
    for name in [n for n in values if n.endswith("_pattern")]:
        values[name] = _resolved(name, values[name], patterned, expert)
    if "feedforward_modules" in fields:
        named = values.get("feedforward_modules")
        if isinstance(named, str):
            chosen = [m for m in adapted if matches_fully(named, m, expert=expert.name)]
        else:
            chosen = [m for m in adapted if is_within(m, strings(named))]
        values["feedforward_modules"] = chosen
    for name, value in values.items():
        values_in_it = value.values() if isinstance(value, dict) else [value]
        sizes = [size for size in values_in_it if isinstance(size, (int, float))]
        if not _UNBOUNDED.match(name) and not all(abs(size) <= _LARGEST_RANK for size in sizes):
            raise refused(expert, f"{name} is more than {_LARGEST_RANK}")
    return known(**values, inference_mode=True)


def write_plain_configuration(expert: Expert, folder: Path) -> None:
    """Write ``adapter_config.json`` anew, for PEFT to read. Raises PoolError."""
    plain = plain_configuration(expert)
    plain.task_type = task_type_of(expert)
    plain.save_pretrained(folder)


def task_type_of(expert: Expert) -> str | None:
    """The word by which PEFT picks how it wraps the model; None for one that it does not know."""
    task = expert.config.get("task_type")
    return task if isinstance(task, str) and task in _TASKS else None


def _resolved(
    name: str, patterns: object, modules: Sequence[str], expert: Expert
) -> Mapping[str, Any] | None:
    """A pattern's values by full module names: PEFT would run a stranger's expressions."""
    if expert.kind == "adalora" and isinstance(patterns, dict):  # masks under plain names
        known = {f"{module}.lora_E" for module in modules}
        return {key: mask for key, mask in patterns.items() if key in known} or None
    found = {m: pattern_value(m, patterns, expert=expert.name) for m in modules}
    plain = name in _BY_FULL_NAME
    return {m if plain else f"^{re.escape(m)}": v for m, v in found.items() if v is not None}


def refused(expert: Expert, reason: str) -> PoolError:
    """The error for an adapter that PEFT does not merge as it should."""
    return PoolError(
        f"PEFT does not merge this {expert.kind} adapter into the base ({reason})",
        code="MG002",
        expert=expert.name,
        where=CONFIG,
        fix="save it again with the installed version of PEFT, or leave it out of the pool",
    )
