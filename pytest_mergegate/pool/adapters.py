"""LoRA adapters in PEFT's format: configuration, tensor names and factors."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from pytest_mergegate.errors import PoolError
from pytest_mergegate.pool.tensor_files import (
    TensorHeader,
    TensorScan,
    fingerprint,
    read_headers,
    scan_tensors,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_BASE_LAYERS = (".base_layer.weight", ".embed_tokens.weight")
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")

# Settings under which an adapter is more than W0 + s·B·A; refused until they are computed right.
_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False, None),
    "target_parameters": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "use_bdlora": (None, False),
    "velora_config": (None,),
    "monteclora_config": (None,),
    # the other initialisations (pissa, olora, corda, loftq, ...) leave a changed base behind
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}


@dataclass(frozen=True, kw_only=True)
class LoraModule:
    """The factors of one adapted module: its task vector is ``scale · B @ A``."""

    module: str
    """Name in the base, such as ``model.layers.0.self_attn.q_proj``."""
    key_a: str
    key_b: str
    shape_a: tuple[int, ...]
    """[rank, inputs]."""
    shape_b: tuple[int, ...]
    """[outputs, rank]."""
    scale: float
    """α/r, or α/√r under rsLoRA."""

    @property
    def parameter(self) -> str:
        """The parameter of the base that the factors add to."""
        return f"{self.module}.weight"


@dataclass(frozen=True, kw_only=True)
class Expert:
    """A LoRA adapter of the pool."""

    name: str
    reference: str
    path: Path
    kind: str
    fingerprint: str
    """Over configuration and weights."""
    weights_fingerprint: str
    """Over the weights alone: equal for copies whose configuration was touched."""
    base_reference: str | None
    """The base that the adapter says it was trained on."""
    target_modules: str | tuple[str, ...]
    """A regular expression or ``all-linear``, or the endings of module names."""
    exclude_modules: str | tuple[str, ...]
    layers: tuple[int, ...] | None
    """The only layers adapted (PEFT's ``layers_to_transform``)."""
    modules: Mapping[str, LoraModule]
    """By parameter of the base."""
    scan: TensorScan
    """Which of its tensors are not finite, and which are zero."""

    @property
    def weights_file(self) -> Path:
        """The safetensors file with the factors."""
        return self.path / WEIGHTS


def read_adapter(path: Path, *, name: str, reference: str, where: str) -> Expert:
    """Read the configuration and the tensor headers of an adapter, and scan its weights.

    Raises PoolError for a folder that is no adapter, an adapter that is more than a plain LoRA,
    tensors that are not pairs of matching factors, and element types that cannot be checked.
    """
    config = _read_config(path, name, where)
    headers = read_headers(path / WEIGHTS, expert=name)
    modules = {m.parameter: m for m in _pair_factors(headers, config, name)}
    return Expert(
        name=name,
        reference=reference,
        path=path,
        kind="lora",
        fingerprint=fingerprint([path / CONFIG, path / WEIGHTS]),
        weights_fingerprint=fingerprint([path / WEIGHTS]),
        base_reference=config.get("base_model_name_or_path") or None,
        target_modules=_names(config.get("target_modules"), name, path),
        exclude_modules=_names(config.get("exclude_modules") or (), name, path),
        layers=_layers(config.get("layers_to_transform")),
        modules=modules,
        scan=scan_tensors(path / WEIGHTS, expert=name),
    )


def _read_config(path: Path, name: str, where: str) -> dict[str, Any]:
    if not (path / CONFIG).is_file():
        held = "is empty" if not any(path.iterdir()) else f"has no {CONFIG}"
        if (path / "config.json").exists():
            held += " (a full checkpoint? those are not supported yet)"
        raise PoolError(
            f"{path.name}/ {held}",
            expert=name,
            where=where,
            fix="point to a folder that PEFT's save_pretrained wrote",
        )
    if not (path / WEIGHTS).is_file():
        pickle = (path / "adapter_model.bin").exists()
        raise PoolError(
            f"{path.name}/ has no {WEIGHTS}"
            + (" (adapter_model.bin is a pickle and is never loaded)" if pickle else ""),
            expert=name,
            where=where,
            fix="save the adapter as safetensors: model.save_pretrained(path)",
        )
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise PoolError(
            f"{CONFIG} is not JSON ({error})",
            expert=name,
            where=f"{path.name}/{CONFIG}",
            fix="save the adapter again",
        ) from None
    if not isinstance(config, dict):
        raise PoolError(
            f"{CONFIG} is not a JSON object",
            expert=name,
            where=f"{path.name}/{CONFIG}",
            fix="save the adapter again",
        )
    for setting, plain in _PLAIN.items():
        if setting in config and config[setting] not in plain:
            raise PoolError(
                f"{setting}={config[setting]!r} is not supported yet",
                code="MG002",
                expert=name,
                where=f"{path.name}/{CONFIG}",
                fix="gate plain LoRA adapters, or leave this expert out of the pool",
            )
    return config


def _names(value: object, name: str, path: Path) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    raise PoolError(
        f"target_modules or exclude_modules is {value!r}",
        expert=name,
        where=f"{path.name}/{CONFIG}",
        fix="name the adapted modules, as PEFT does when it saves",
    )


def _layers(value: object) -> tuple[int, ...] | None:
    if isinstance(value, int):
        return (value,)
    return tuple(value) if isinstance(value, (list, tuple)) else None


def _pair_factors(
    headers: Mapping[str, TensorHeader], config: Mapping[str, Any], name: str
) -> Iterable[LoraModule]:
    keys: dict[str, dict[str, str]] = {}
    for key in headers:
        match = _KEY.fullmatch(key)
        if key.endswith(_BASE_LAYERS):
            raise PoolError(
                f"the adapter holds a copy of a layer of the base, {key!r}",
                code="MG002",
                expert=name,
                where=WEIGHTS,
                fix="save it without: model.save_pretrained(path, save_embedding_layers=False)",
            )
        if match is None:
            raise PoolError(
                f"tensor {key!r} is not a LoRA factor of a base module",
                code="MG102",
                expert=name,
                where=WEIGHTS,
                fix="PEFT names tensors base_model.model.<module>.lora_A.weight; "
                "a changed prefix makes it drop them without a word",
            )
        keys.setdefault(match["module"], {})[match["factor"]] = key
    for module, pair in sorted(keys.items()):
        if set(pair) != {"A", "B"}:
            raise PoolError(
                f"module {module!r} has only lora_{next(iter(pair))}",
                code="MG103",
                expert=name,
                where=WEIGHTS,
                fix="save the adapter again; half of this module is missing",
            )
        a, b = headers[pair["A"]], headers[pair["B"]]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            raise PoolError(
                f"the factors of {module!r} do not fit: A {a.shape}, B {b.shape}",
                code="MG104",
                expert=name,
                where=WEIGHTS,
                fix="save the adapter again",
            )
        scale = _scale(module, config, a.shape[0], name)
        yield LoraModule(
            module=module,
            key_a=pair["A"],
            key_b=pair["B"],
            shape_a=a.shape,
            shape_b=b.shape,
            scale=scale,
        )
    if not keys:
        raise PoolError(
            "the adapter holds no tensors",
            code="MG102",
            expert=name,
            where=WEIGHTS,
            fix="save the adapter again",
        )


def _scale(module: str, config: Mapping[str, Any], stored_rank: int, name: str) -> float:
    rank = _pattern_value(module, config.get("rank_pattern")) or config.get("r")
    alpha = _pattern_value(module, config.get("alpha_pattern")) or config.get("lora_alpha")
    if rank != stored_rank or not _is_finite(alpha):
        raise PoolError(
            f"module {module!r} has rank {stored_rank}, its configuration says "
            f"r={rank!r}, lora_alpha={alpha!r}",
            code="MG104",
            expert=name,
            where=CONFIG,
            fix="the configuration belongs to other weights; save the adapter again",
        )
    divisor = math.sqrt(stored_rank) if config.get("use_rslora") else stored_rank
    return float(alpha) / divisor


def _is_finite(value: object) -> TypeGuard[float]:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


def _pattern_value(module: str, patterns: object) -> Any:
    """PEFT's rule: the first key that is the module's name, or ends it after a dot."""
    if not isinstance(patterns, dict):
        return None
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            return None
    return None
