"""PEFT adapters: their configuration, and which of PEFT's methods they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.json_files import read_json_object
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapter_names import CONFIG, PREFIX, WEIGHTS
from pytest_mergegate.pool.changes import Change, Computed
from pytest_mergegate.pool.lora import lora_changes
from pytest_mergegate.pool.shards import refuse_pickles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.stored import StoredTensors

# PEFT's methods whose effect is a change of the weights, which PEFT itself works out
COMPUTED = frozenset(
    {
        "ADALORA",
        "BOFT",
        "C3A",
        "DEFT",
        "DELORA",
        "FOURIERFT",
        "GLORA",
        "GRALORA",
        "HIRA",
        "HRA",
        "IA3",
        "LN_TUNING",
        "LOHA",
        "LOKR",
        "MISS",
        "OFT",
        "OSF",
        "PEANUT",
        "PSOFT",
        "PVERA",
        "RANDLORA",
        "ROAD",
        "SHIRA",
        "TINYLORA",
        "TRAINABLE_TOKENS",
        "VBLORA",
        "VERA",
        "WAVEFT",
    }
)
# settings under which a LoRA is more, or something else, than a change of the weights
_PLAIN: dict[str, tuple[object, ...]] = {
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False, None),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "use_bdlora": (None, False),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "target_parameters": (None, []),
    # the other initialisations (corda, loftq, pissa_niter, ...) leave behind a changed base that
    # cannot be made again
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "pissa", "olora"),
}
_WITH_BIASES = ("IA3", "LN_TUNING", "ROAD")
_CONFIG_BYTES = 4 << 20
_MOST_PAIRS, _LONG = 5_000_000, 100
_LOOKED_UP = ("target_modules", "exclude_modules")
"""Lists in which each module is looked up, however long they are."""
# any other `use_...` is a variant of a PEFT to come
_KNOWN_USES: dict[str, tuple[object, ...]] = {
    "use_rslora": (True, False, None),
    "use_dora": (True, False, None),
}
_CHANGED_BASE = ("pissa", "olora")
# what all modules share; PEFT itself says whether it belongs there
_SHARED = re.compile(r"base_model\.[a-z]+_\w+(\.\w+)*")


def read_adapter_config(folder: Path, *, expert: str | None) -> dict[str, Any]:
    """The object in ``adapter_config.json``, as it is. Raises PoolError."""
    where = f"{folder.name}/{CONFIG}"
    return read_json_object(folder / CONFIG, expert=expert, where=where, limit=_CONFIG_BYTES)


def read_config(path: Path, name: str, where: str) -> dict[str, Any]:
    """The configuration of an adapter in folder ``path``.

    Raises PoolError for a folder that is no adapter, pickled weights, a configuration that is no
    JSON object, and methods that are no change of the weights.
    """
    if not (path / CONFIG).is_file():
        inside = sorted(p.parent.name for p in path.glob(f"*/{CONFIG}"))
        held = "is empty" if not any(path.iterdir()) else f"has no {CONFIG} and no config.json"
        held += f"; {shown(inside[-1])}/ in it has" if inside else ""
        raise PoolError(
            f"{path.name}/ {held}",
            expert=name,
            where=where,
            fix="point to a folder that save_pretrained wrote",
        )
    if not (path / WEIGHTS).is_file():
        refuse_pickles(path, expert=name)
        raise PoolError(
            f"{path.name}/ has no {WEIGHTS}",
            expert=name,
            where=where,
            fix="save the adapter as safetensors: model.save_pretrained(path)",
        )
    config = read_adapter_config(path, expert=name)
    _check_supported(config, f"{path.name}/{CONFIG}", name)
    return config


def _check_supported(config: Mapping[str, Any], where: str, name: str) -> None:
    method = config.get("peft_type")
    if not isinstance(method, str) or (method != "LORA" and method not in COMPUTED):
        raise PoolError(
            f"peft_type={shown(repr(method))} is no change of the weights, and cannot be merged",
            code="MG002",
            expert=name,
            where=where,
            fix="leave this expert out of the pool",
        )
    newer = {name: (False, None) for name in config if name.startswith("use_")}
    for setting, plain in {**newer, **_PLAIN, **_KNOWN_USES}.items():
        if method == "LORA" and setting in config and config[setting] not in plain:
            raise PoolError(
                f"{setting}={shown(repr(config[setting]))} is not supported: no change of the "
                "weights that could be worked out again",
                code="MG002",
                expert=name,
                where=where,
                fix="leave this expert out of the pool, or merge it into its base and list the "
                "checkpoint",
            )


def adapter_kind(config: Mapping[str, Any]) -> str:
    """``lora``, ``dora``, or PEFT's name of the method in lower case."""
    if config["peft_type"] == "LORA" and config.get("use_dora"):
        return "dora"
    return str(config["peft_type"]).lower()


def read_changes(
    config: Mapping[str, Any], tensors: StoredTensors, base: Base | None, name: str
) -> Iterable[Change]:
    """What an adapter does to the base, from its tensors' names. Raises PoolError."""
    if not tensors:
        raise PoolError(
            "the adapter holds no tensors",
            code="MG102",
            expert=name,
            where=WEIGHTS,
            fix="save the adapter again",
        )
    _check_lists(config, max(len(tensors), len(base.tensors) if base else 0), name)
    computed = is_computed(config)
    if odd := [
        key
        for key in tensors
        if not key.startswith(PREFIX) and not (computed and _SHARED.fullmatch(key))
    ]:
        raise PoolError(
            f"tensor {odd[0]!r} does not begin with {PREFIX!r}",
            code="MG102",
            expert=name,
            where=WEIGHTS,
            fix=f"PEFT names tensors {PREFIX}<module>.lora_A.weight; a changed prefix makes it "
            "drop them without a word",
        )
    if computed:
        return _computed(config, tensors, base)
    return lora_changes(config, tensors, base, name)


def _check_lists(config: Mapping[str, Any], tensors: int, name: str) -> None:
    """Raise PoolError where every name in a list, held against every tensor, takes too long."""
    for setting, value in config.items():
        if setting in _LOOKED_UP or not isinstance(value, (list, dict)):
            continue
        # a long name takes as long as many
        names = sum(1 + len(entry) // _LONG for entry in value if isinstance(entry, str))
        if names * tensors > _MOST_PAIRS:
            raise PoolError(
                f"{shown(setting, 60)} holds {len(value)} names, for {tensors} tensors",
                expert=name,
                where=CONFIG,
                fix="write a name for each module that is not as the others, and no more",
            )


def is_computed(config: Mapping[str, Any]) -> bool:
    """Whether only PEFT can say what the adapter does to the weights."""
    method, start = config["peft_type"], config.get("init_lora_weights")
    return method != "LORA" or start in _CHANGED_BASE


def _computed(config: Mapping[str, Any], tensors: StoredTensors, base: Base | None) -> list[Change]:
    """One change per module of the base that the tensors' names begin with."""
    keys: dict[str, list[str]] = {}
    for key in tensors:
        if key.startswith(PREFIX):
            keys.setdefault(_owner(key.removeprefix(PREFIX), base), []).append(key)
    if config["peft_type"] in _WITH_BIASES and base is not None:
        for parameter in list(keys):
            bias = parameter.removesuffix("weight") + "bias"
            if bias in base.tensors:
                keys.setdefault(bias, []).extend(keys[parameter])
    return [Computed(parameter=parameter, keys=tuple(found)) for parameter, found in keys.items()]


def _owner(key: str, base: Base | None) -> str:
    """The parameter that a tensor of the adapter works on: its longest beginning in the base."""
    if base is not None and key in base.tensors:
        return key
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        if base is not None and f"{module}.weight" in base.tensors:
            return f"{module}.weight"
    return ".".join(parts[:-1]) + ".weight"
