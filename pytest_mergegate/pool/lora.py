"""LoRA adapters: tensor names and configuration to factors and what was trained beside them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool.adapter_names import CONFIG, PREFIX, WEIGHTS
from pytest_mergegate.pool.changes import Change, Factors, Offset, Replacement
from pytest_mergegate.pool.patterns import pattern_value
from pytest_mergegate.pool.trained import replacement, rows_of, without_doubles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.stored import StoredTensors

_PARTS = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_B.bias": "bias",
    "lora_embedding_A": "embedding_A",
    "lora_embedding_B": "embedding_B",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "token_adapter.trainable_tokens_delta": "rows",
    "base_layer.weight": "base",
    "base_layer.bias": "base_bias",
}
_FACTORS = ("A", "B", "embedding_A", "embedding_B")
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>" + "|".join(map(re.escape, sorted(_PARTS, reverse=True))) + ")"
)


@dataclass(kw_only=True)
class _Module:
    """The tensors of one adapted module, by what they are."""

    name: str
    keys: dict[str, str] = field(default_factory=dict)


def lora_changes(
    config: Mapping[str, Any], tensors: StoredTensors, base: Base | None, expert: str
) -> list[Change]:
    """What a LoRA adapter changes, by parameter of the base.

    Raises PoolError for tensors that are neither factors nor trained parameters, for factors
    without their other half, and for shapes that contradict each other or the configuration.
    """
    modules: dict[str, _Module] = {}
    changes: list[Change] = []
    for key in tensors:
        if ".original_module." in key:  # the base's own, beside a copy that was trained
            continue
        match = _KEY.fullmatch(key.removeprefix(PREFIX))
        if match is None:
            changes.append(replacement(key, config, tensors, base, expert))
            continue
        module = modules.setdefault(match["module"], _Module(name=match["module"]))
        module.keys[_PARTS[match["part"]]] = key
    for _, module in sorted(modules.items()):
        changes += _module_changes(module, config, tensors, base, expert)
    return without_doubles(changes, tensors, base, expert)


def adapted_modules(tensors: StoredTensors) -> list[str]:
    """The modules that have a factor among ``tensors``."""
    matches = (_KEY.fullmatch(key.removeprefix(PREFIX)) for key in tensors)
    return sorted({m["module"] for m in matches if m and _PARTS[m["part"]] in _FACTORS})


def _module_changes(
    module: _Module,
    config: Mapping[str, Any],
    tensors: StoredTensors,
    base: Base | None,
    expert: str,
) -> list[Change]:
    keys = dict(module.keys)
    changes: list[Change] = []
    if "rows" in keys:
        changes.append(rows_of(module.name, keys.pop("rows"), config, tensors, base, expert))
    if "base_bias" in keys:
        key = keys.pop("base_bias")
        changes.append(
            Replacement(parameter=f"{module.name}.bias", key=key, shape=tensors[key].shape)
        )
    if not keys:
        return changes
    _check_asked_for(keys, module.name, config, expert)
    embedding = "embedding_A" in keys or "embedding_B" in keys
    names = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    _check_whole(keys, names, module.name, config, expert)
    factors = _factors(module.name, keys, names, config, tensors, base, expert)
    changes.append(factors)
    if "bias" in keys:
        changes.append(
            Offset(
                parameter=f"{module.name}.bias",
                key=keys["bias"],
                shape=tensors[keys["bias"]].shape,
                scale=factors.scale,
            )
        )
    return changes


def _check_asked_for(
    keys: Mapping[str, str], module: str, config: Mapping[str, Any], expert: str
) -> None:
    """What PEFT makes no place for, it drops without a word."""
    for part, setting in (("magnitude", "use_dora"), ("bias", "lora_bias")):
        if part in keys and not config.get(setting):
            raise PoolError(
                f"tensor {keys[part]!r} is stored, but {setting} is not set: PEFT drops it",
                code="MG102",
                expert=expert,
                where=CONFIG,
                fix=f"set {setting}: true if {module!r} was trained with it, or save the adapter "
                "again",
            )


def _check_whole(
    keys: Mapping[str, str],
    names: tuple[str, str],
    module: str,
    config: Mapping[str, Any],
    expert: str,
) -> None:
    """Raise PoolError where one of the factors, or a DoRA's magnitude, is missing."""
    if not set(names) <= set(keys):
        held = ", ".join(sorted(key.rpartition(f"{module}.")[2] for key in keys.values()))
        raise PoolError(
            f"module {module!r} has only {held}",
            code="MG103",
            expert=expert,
            where=WEIGHTS,
            fix="save the adapter again; half of this module is missing",
        )
    if config.get("use_dora") and "magnitude" not in keys:
        raise PoolError(
            f"module {module!r} has no lora_magnitude_vector, and the adapter is a DoRA",
            code="MG103",
            expert=expert,
            where=WEIGHTS,
            fix="save the adapter again; a third of this module is missing",
        )


def _factors(
    module: str,
    keys: Mapping[str, str],
    names: tuple[str, str],
    config: Mapping[str, Any],
    tensors: StoredTensors,
    base: Base | None,
    expert: str,
) -> Factors:
    a, b = (tensors[keys[name]].shape for name in names)
    _check_fits(a, b, keys, module, tensors, expert)
    parameter = base.parameter(f"{module}.weight") if base else f"{module}.weight"
    return Factors(
        parameter=parameter,
        key_a=keys[names[0]],
        key_b=keys[names[1]],
        shape_a=a,
        shape_b=b,
        scale=_scale(module, config, a[0], expert),
        transposed=names[0] == "embedding_A" or _is_transposed(parameter, a, b, base),
        magnitude_key=keys.get("magnitude"),
        base_key=keys.get("base"),
    )


def _check_fits(
    a: tuple[int, ...],
    b: tuple[int, ...],
    keys: Mapping[str, str],
    module: str,
    tensors: StoredTensors,
    expert: str,
) -> None:
    """Raise PoolError where A, B and the magnitudes are not of one module."""
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] == 0:
        raise PoolError(
            f"the factors of {module!r} do not fit: A {a}, B {b}",
            code="MG104",
            expert=expert,
            where=WEIGHTS,
            fix="save the adapter again",
        )
    if "magnitude" in keys and tensors[keys["magnitude"]].size != b[0]:
        raise PoolError(
            f"DoRA's magnitudes of {module!r} are {list(tensors[keys['magnitude']].shape)}, "
            f"not one for each of {b[0]} outputs",
            code="MG104",
            expert=expert,
            where=WEIGHTS,
            fix="save the adapter again",
        )


def _is_transposed(
    parameter: str, a: tuple[int, ...], b: tuple[int, ...], base: Base | None
) -> bool:
    """Whether the weight is stored as [inputs, outputs]; PEFT, too, goes by the layer alone,
    whatever ``fan_in_fan_out`` says."""
    if base is None or parameter not in base.tensors:
        return False
    if b[0] == a[1]:
        return base.stores_transposed(parameter)
    return base.tensors[parameter].shape == (a[1], b[0])


def _scale(module: str, config: Mapping[str, Any], stored_rank: int, expert: str) -> float:
    rank = pattern_value(module, config.get("rank_pattern"), expert=expert) or config.get("r")
    alpha = pattern_value(module, config.get("alpha_pattern"), expert=expert)
    alpha = config.get("lora_alpha") if alpha is None else alpha
    if rank != stored_rank or not _is_finite(alpha):
        raise PoolError(
            f"module {module!r} has rank {stored_rank}, its configuration says "
            f"r={rank!r}, lora_alpha={alpha!r}",
            code="MG104",
            expert=expert,
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
