"""Task vectors that only a library can work out: PEFT those of IA3, LoHa, LoKr, VeRA, ...;
transformers those of checkpoints whose tensors it renames or fuses when it loads them."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import safe_open
from safetensors.torch import save_file

from pytest_mergegate.engine.families import pick_family
from pytest_mergegate.engine.loading import load_config, load_module
from pytest_mergegate.errors import PoolError
from pytest_mergegate.pool.adapters import COMPUTED
from pytest_mergegate.pool.patterns import matches_fully, pattern_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.pool.pool import Pool

_MERGE_TOLERANCE = 1e-3
_LARGEST_RANK = 1 << 14
_NOTHING = 1e-6
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
_PATTERNS = ("rank_pattern", "alpha_pattern")


class ComputedDeltas:
    """Dense task vectors of whole experts, kept in a temporary folder, not in memory."""

    def __init__(self, pool: Pool) -> None:
        self._base = pool.base
        self._trust_remote_code = pool.spec.trust_remote_code
        self._ignored = pool.spec.ignore
        self._folder = tempfile.TemporaryDirectory(prefix="mergegate-")
        self._files: dict[str, Path] = {}

    def delta(self, expert: Expert, parameter: str) -> Tensor:
        """Float32 τ of one parameter.

        Raises PoolError where PEFT does not take the adapter, or transformers the checkpoint.
        """
        if expert.name not in self._files:
            self._files[expert.name] = self._compute(expert)
        with safe_open(self._files[expert.name], framework="pt") as file:
            found: Tensor = file.get_tensor(parameter)
        return found

    def _compute(self, expert: Expert) -> Path:
        module = self._load()
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        after = self._after(module, expert)
        del module
        deltas = {name: (after[name] - own).contiguous() for name, own in before.items()}
        self._check_moved(expert, deltas, before)
        moved = {name for name, delta in deltas.items() if bool(delta.any())}
        if expert.is_adapter:
            if strays := sorted(moved - set(expert.changes)):
                raise _refused(expert, f"it changes {strays[0]!r} besides the modules it names")
            deltas = {name: delta for name, delta in deltas.items() if name in expert.changes}
        file = Path(self._folder.name) / f"{len(self._files)}.safetensors"
        save_file(deltas, file)
        return file

    def _check_moved(
        self, expert: Expert, deltas: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> None:
        """The rule of MG107, which its own file could not apply to tensors alone."""
        size = sum(float(before[n].double().square().sum()) for n in expert.changes if n in before)
        moved = sum(float(delta.double().square().sum()) for delta in deltas.values())
        if moved < _NOTHING**2 * size and "MG107" not in self._ignored:
            raise PoolError(
                f"the {expert.kind} adapter changes nothing: ‖ΔW‖ is below {_NOTHING:g} of ‖W‖",
                code="MG107",
                expert=expert.name,
                fix="it was saved untrained, or its tensors were lost; save it again",
            )

    def _load(self) -> Any:
        trusted, path = self._trust_remote_code, self._base.path
        family = pick_family(load_config(path, trust_remote_code=trusted))
        return load_module(path, family.auto_class, family.kind, trust_remote_code=trusted)

    def _after(self, module: Any, expert: Expert) -> Mapping[str, Tensor]:
        if not expert.is_adapter:
            # the base's own class and configuration: nothing that the expert's folder names
            tuned = load_module(expert.path, type(module), "checkpoint", config=module.config)
            return {name: p.detach() for name, p in tuned.named_parameters()}
        try:
            return _merged(module, expert)
        except PoolError:
            raise
        except Exception as error:  # a stranger's configuration can break PEFT in any way
            raise _refused(expert, _first_line(error)) from None


def _merged(module: Any, expert: Expert) -> dict[str, Tensor]:
    """Parameters after PEFT merged the adapter, checked against PEFT's forward without a merge."""
    stored = _stored(expert)
    model = get_peft_model(module, _configuration(expert, module), autocast_adapter_dtype=False)
    set_peft_model_state_dict(model, stored)
    held = get_peft_model_state_dict(model, save_embedding_layers=False)
    if odd := sorted(set(held) ^ set(stored)):
        verb = "is missing" if odd[0] in held else "matches nothing in the base"
        raise PoolError(
            f"tensor {odd[0]!r} {verb}",
            code="MG103" if odd[0] in held else "MG102",
            expert=expert.name,
            where="adapter_model.safetensors",
            fix="save the adapter again with PEFT's save_pretrained",
        )
    model.eval()
    with torch.inference_mode():
        expected = _outputs(model)
        merged = model.merge_and_unload()
        found = _outputs(merged)
    error = float((found - expected).abs().max()) / max(1e-6, float(expected.abs().max()))
    if not error <= _MERGE_TOLERANCE:
        raise _refused(expert, f"merged, it answers differently from unmerged (by {error:.1%})")
    return {name: p.detach() for name, p in merged.named_parameters()}


def _stored(expert: Expert) -> dict[str, Tensor]:
    """All tensors as they are: some methods keep whole numbers (SHiRA's places)."""
    found: dict[str, Tensor] = {}
    for path in expert.tensors.files:
        with safe_open(path, framework="pt") as file:
            found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    return found


def _configuration(expert: Expert, module: Any) -> Any:
    """The adapter's configuration with plain values only, and every module named in full."""
    kind = str(expert.config["peft_type"])
    assert kind == "LORA" or kind in COMPUTED
    known = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    fields = {f.name for f in dataclasses.fields(known) if f.init} - _NEVER_TAKEN
    values = {name: value for name, value in expert.config.items() if name in fields}
    weights = [p for p in expert.changes if p.endswith(".weight")]
    trained = {p.removesuffix(".weight") for p in weights}
    saved = _strings(values.get("modules_to_save"))
    if "modules_to_save" in fields:
        values["modules_to_save"] = saved or None
    adapted = sorted(m for m in trained if not _among(m, saved))
    values["target_modules"] = adapted
    for name in _PATTERNS:
        if name in values:
            values[name] = _resolved(values[name], adapted, expert.name)
    if "feedforward_modules" in fields:
        values["feedforward_modules"] = [
            m for m in adapted if _named(m, values.get("feedforward_modules"), expert.name)
        ]
    for name in ("r", "rank"):
        if isinstance(values.get(name), int) and values[name] > _LARGEST_RANK:
            raise _refused(expert, f"{name}={values[name]}")
    return known(**values, inference_mode=True)


def _strings(value: object) -> list[str]:
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _among(module: str, names: Sequence[str]) -> bool:
    return any(f".{name}." in f".{module}." for name in names)


def _resolved(patterns: object, modules: Sequence[str], expert: str) -> Mapping[str, Any]:
    """A pattern's values by full module names: PEFT would run a stranger's expressions."""
    found = {m: pattern_value(m, patterns, expert=expert) for m in modules}
    return {f"^{re.escape(m)}": value for m, value in found.items() if value is not None}


def _named(module: str, names: object, expert: str) -> bool:
    if isinstance(names, str):
        return matches_fully(names, module, expert=expert)
    return _among(module, _strings(names))


def _outputs(model: Any) -> Tensor:
    config = model.config
    ids = torch.arange(1, 6).remainder(int(config.vocab_size))[None]
    extra = {"decoder_input_ids": ids[:, :3]} if config.is_encoder_decoder else {}
    outputs: Tensor = model(input_ids=ids, **extra)[0]
    return outputs


def _refused(expert: Expert, reason: str) -> PoolError:
    return PoolError(
        f"PEFT does not merge this {expert.kind} adapter into the base ({reason})",
        code="MG002",
        expert=expert.name,
        where="adapter_config.json",
        fix="save it again with the installed version of PEFT, or leave it out of the pool",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
