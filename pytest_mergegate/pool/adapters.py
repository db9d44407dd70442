"""PEFT adapters: their files, and what their configuration says.

PEFT itself would load torch to read them, and import what a configuration names.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import read_json_object, strings
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.checkpoints import refuse_pickles

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Every tensor's name begins with it."""
WRAPPED = re.compile(r"\.modules_to_save\.(?:[^.]+\.|(?=(?:weight|bias)$))")
"""What PEFT puts into the name of a parameter that is trained whole, with the adapter's own name or
without it."""
COMPUTED = frozenset(
    (
        *("ADALORA", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA"),
        *("HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT"),
        *("PVERA", "RANDLORA", "ROAD", "SHIRA", "TINYLORA", "TRAINABLE_TOKENS", "VBLORA", "VERA"),
        "WAVEFT",
    )
)
"""PEFT's methods whose effect is a change of the weights, which PEFT itself works out."""
_PLAIN: dict[str, tuple[object, ...]] = {
    "use_rslora": (True, False, None),
    "use_dora": (True, False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "init_lora_weights": (
        *(True, False, None, "gaussian", "eva", "orthogonal", "mica", "pissa", "olora"),
    ),
}
"""Values under which a LoRA is a change of the weights, and nothing more or else."""
_CHANGED_BASE = ("pissa", "olora")
_DRAWN = re.compile(r"pissa_niter_\d{1,2}")
"""PiSSA by a decomposition that begins with random numbers."""
_CONVERT = (
    "save it converted, on the machine where its start is: save_pretrained(path, "
    "path_initial_model_for_weight_conversion=...)"
)
_WHY: dict[str, str] = {
    "loftq": "its base is what LoftQ left of a quantised one, which the adapter does not hold",
    "corda": "it started from activations of its data, and took that start out of its base",
    "lora_ga": "it started from gradients of its data, and took that start out of its base",
    "use_qalora": "it pools inputs before the factors, by groups of a quantised base",
    "use_bdlora": "its factors are blocks whose places depend on how a model is sharded",
    "layer_replication": "it has more layers than its base",
    "alora_invocation_tokens": "it acts behind some tokens only",
    "arrow_config": "it routes between adapters, input by input",
    "kasa_config": "it takes small singular values out of its base",
    "monteclora_config": "it draws its weights at random",
    "velora_config": "PEFT keeps projections for training beside the factors",
}
"""Why an adapter with such a start, or setting, is no change of the weights that could be worked
out again."""
_MLX = "adapters.safetensors"
ZERO3 = (
    "DeepSpeed's ZeRO-3 saves such empty tensors where each process holds a part: gather the "
    "weights (stage3_gather_16bit_weights_on_model_save, or zero_to_fp32.py) and save again"
)
_CONFIG_BYTES = 4 << 20
_MOST_PAIRS, _LONG = 5_000_000, 100
_LOOKED_UP = ("target_modules", "exclude_modules")
"""Lists in which each module is looked up, however long they are."""


def read_adapter_config(folder: Path, *, expert: str | None) -> dict[str, Any]:
    """The object in ``adapter_config.json``, as it is. Raises PoolError."""
    where = f"{folder.name}/{CONFIG}"
    return read_json_object(folder / CONFIG, expert=expert, where=where, limit=_CONFIG_BYTES)


def read_config(path: Path, name: str, where: str, reference: str) -> dict[str, Any]:
    """The configuration of an adapter in folder ``path``, which the gate calls ``reference``.

    Raises PoolError for a folder that is no adapter, pickled weights, a configuration that is no
    JSON object, and methods that are no change of the weights.
    """
    if not (path / CONFIG).is_file():
        inside = sorted(p.parent.name for p in path.glob(f"*/{CONFIG}"))
        held = "is empty" if not any(path.iterdir()) else f"has no {CONFIG} and no config.json"
        held += f"; {', '.join(f'{shown(f)}/' for f in inside[:3])} in it has" if inside else ""
        fix = "point to a folder that save_pretrained wrote"
        if inside:  # save_pretrained of an adapter that is not called default
            meant = " or ".join(f"{shown(reference)}/{shown(folder)}" for folder in inside[:3])
            fix = f"PEFT saves an adapter under its name: write {meant}"
        raise PoolError(f"{path.name}/ {held}", expert=name, where=where, fix=fix)
    if not (path / WEIGHTS).is_file():
        refuse_pickles(path, expert=name)
        fix = "save the adapter as safetensors: model.save_pretrained(path)"
        if (path / _MLX).is_file():
            what = (
                f"{path.name}/ holds {_MLX}, as mlx-lm writes it: factors under other names, the "
            )
            what += "other way round, and settings that PEFT does not know"
            fix = "mergegate convert DIR --output OUT writes it as PEFT does"
            raise PoolError(what, code="MG002", expert=name, where=where, fix=fix)
        raise PoolError(f"{path.name}/ has no {WEIGHTS}", expert=name, where=where, fix=fix)
    config = read_adapter_config(path, expert=name)
    _check_supported(config, f"{path.name}/{CONFIG}", name)
    return config


def _check_supported(config: Mapping[str, Any], where: str, name: str) -> None:
    refused = partial(PoolError, code="MG002", expert=name, where=where)
    method, fix = config.get("peft_type"), "leave this expert out of the pool"
    if not isinstance(method, str) or (method != "LORA" and method not in COMPUTED):
        what = f"peft_type={shown(repr(method))} is no change of the weights, and cannot be merged"
        raise refused(what, fix=fix)
    # any other `use_...` is a variant of a PEFT to come
    newer = {setting: (False, None) for setting in config if setting.startswith("use_")}
    for setting, plain in {**newer, **_PLAIN}.items() if method == "LORA" else ():
        value = config.get(setting, plain[0])
        if value in plain or (setting == "init_lora_weights" and is_drawn(config)):
            continue
        start = value if setting == "init_lora_weights" and isinstance(value, str) else setting
        why = _WHY.get(start, "no change of the weights that could be worked out again")
        converted = f", or {_CONVERT}" if start in ("corda", "lora_ga") else ""
        raise refused(
            f"{setting}={shown(repr(value))} is not supported: {why}",
            fix=f"{fix}, or merge it into its base and list the checkpoint{converted}",
        )


def check_lists(config: Mapping[str, Any], tensors: int, name: str) -> None:
    """Raise PoolError where every name in a list, held against every tensor, takes too long."""
    for setting, value in config.items():
        if setting in _LOOKED_UP or not isinstance(value, (list, dict)):
            continue
        # a long name takes as long as many
        names = sum(1 + len(entry) // _LONG for entry in value if isinstance(entry, str))
        if names * tensors > _MOST_PAIRS:
            what = f"{shown(setting, 60)} holds {len(value)} names, for {tensors} tensors"
            fix = "write a name for each module that is not as the others, and no more"
            raise PoolError(what, expert=name, where=CONFIG, fix=fix)


def adapter_kind(config: Mapping[str, Any]) -> str:
    """``lora``, ``dora``, or PEFT's name of the method in lower case."""
    if config["peft_type"] == "LORA" and config.get("use_dora"):
        return "dora"
    return str(config["peft_type"]).lower()


def is_computed(config: Mapping[str, Any]) -> bool:
    """Whether only PEFT can say what the adapter does to the weights."""
    changed = config.get("init_lora_weights") in _CHANGED_BASE or is_drawn(config)
    return config["peft_type"] != "LORA" or changed


def is_drawn(config: Mapping[str, Any]) -> bool:
    """Whether an adapter's start was worked out from random numbers."""
    start = config.get("init_lora_weights")
    return isinstance(start, str) and _DRAWN.fullmatch(start) is not None


def saved_modules(config: Mapping[str, Any]) -> list[str]:
    """``modules_to_save``, as far as it holds names."""
    return [name for name in strings(config.get("modules_to_save")) if name]


def is_saved(module: str, names: Sequence[str]) -> bool:
    """Whether ``module`` is, or lies in, one that ``names`` of ``modules_to_save`` mean.

    PEFT saves by endings: ``norm`` means every ``input_layernorm``, too.
    """
    return any(module.endswith(name) or f"{name}." in module for name in names)


def is_within(module: str, names: Iterable[str]) -> bool:
    """Whether ``module`` is, or lies in, one of ``names``.

    Where PEFT looks for what to adapt, it leaves out modules_to_save by whole names.
    """
    return any(f".{name}." in f".{module}." for name in names)
