"""An adapter's configuration as PEFT is handed it: plain values, and every module in full.

Whatever PEFT would import, fetch or match as a regular expression stays behind, both where PEFT
merges in this process and where mergekit has it merge in another.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.json_files import strings
from pytest_mergegate.pool.adapters import COMPUTED, CONFIG, is_within, saved_modules
from pytest_mergegate.pool.lora import adapted_modules
from pytest_mergegate.pool.patterns import matches_fully, pattern_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_mergegate.pool.experts import Expert

_LARGEST_RANK = 1 << 14
# what PEFT would import, fetch or match as a regular expression, or what only training needs;
# the modules are named outright instead
_NEVER_TAKEN = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "task_type",
        "inference_mode",
        "megatron_config",
        "megatron_core",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "runtime_config",
        "peft_version",
        "peft_type",
    ]
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
    adapted = _adapted(expert, saved)
    values["target_modules"] = adapted
    for name in [n for n in values if n.endswith("_pattern")]:
        values[name] = _resolved(name, values[name], adapted, expert)
    if "feedforward_modules" in fields:
        values["feedforward_modules"] = [
            m for m in adapted if _named(m, values.get("feedforward_modules"), expert.name)
        ]
    for name, value in values.items():
        sizes = value.values() if isinstance(value, dict) else [value]
        if not _UNBOUNDED.match(name) and any(map(_is_huge, sizes)):
            raise refused(expert, f"{name} is more than {_LARGEST_RANK}")
    return known(**values, inference_mode=True)


def write_plain_configuration(expert: Expert, folder: Path) -> None:
    """Write ``adapter_config.json`` anew, for PEFT to read. Raises PoolError."""
    plain = plain_configuration(expert)
    task = expert.config.get("task_type")  # a word, by which PEFT picks how it wraps the model
    plain.task_type = task if isinstance(task, str) and task in _TASKS else None
    plain.save_pretrained(folder)


def _adapted(expert: Expert, saved: Sequence[str]) -> list[str]:
    if expert.config["peft_type"] == "LORA":
        return adapted_modules(expert.tensors)
    weights = [p for p in expert.changes if p.endswith(".weight")]
    trained = {p.removesuffix(".weight") for p in weights}
    return sorted(m for m in trained if not is_within(m, saved))


def _is_huge(value: object) -> bool:
    return isinstance(value, (int, float)) and not abs(value) <= _LARGEST_RANK


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


def _named(module: str, names: object, expert: str) -> bool:
    if isinstance(names, str):
        return matches_fully(names, module, expert=expert)
    return is_within(module, strings(names))


def refused(expert: Expert, reason: str) -> PoolError:
    """The error for an adapter that PEFT does not merge as it should."""
    return PoolError(
        f"PEFT does not merge this {expert.kind} adapter into the base ({reason})",
        code="MG002",
        expert=expert.name,
        where=CONFIG,
        fix="save it again with the installed version of PEFT, or leave it out of the pool",
    )
