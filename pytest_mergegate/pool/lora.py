"""LoRA adapters: tensor names and configuration to what each does to the base's parameters."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapters import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    WRAPPED,
    ZERO3,
    is_saved,
    saved_modules,
)
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.changes import Change, Factors, Offset, Replacement, Rows
from pytest_mergegate.pool.expert_modules import ExpertModules
from pytest_mergegate.pool.patterns import pattern_value
from pytest_mergegate.pool.tensors import StoredTensors

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
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>" + "|".join(map(re.escape, sorted(_PARTS, reverse=True))) + ")"
)
_ROWS_OF = ".token_adapter.base_layer.weight"
_SAVE_AGAIN = "save the adapter again"
_OTHER_WEIGHTS = f"the configuration belongs to other weights; {_SAVE_AGAIN}"

Keys = dict[str, str]
"""The tensors of one adapted module, by what they are."""


def adapted_modules(tensors: StoredTensors) -> list[str]:
    """The modules that have a factor among ``tensors``."""
    matches = (_KEY.fullmatch(key.removeprefix(PREFIX)) for key in tensors)
    factors = {"A", "B", "embedding_A", "embedding_B"}
    return sorted({m["module"] for m in matches if m and _PARTS[m["part"]] in factors})


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """A LoRA adapter's files, and the base that it is read against, where that could be read."""

    config: Mapping[str, Any]
    tensors: StoredTensors
    base: Base | None
    expert: str

    def changes(self) -> list[Change]:
        """What it changes, one change per parameter of the base.

        Raises PoolError for tensors that are neither factors nor trained parameters, for factors
        without their other half, for shapes that contradict each other or the configuration, and
        for a parameter that is changed in two ways.
        """
        modules: dict[str, Keys] = {}
        changes: list[Change] = []
        experts = ExpertModules(self)
        for key in self.tensors:
            # the base's own, beside what was trained
            if ".original_module." in key or key.endswith(_ROWS_OF):
                continue
            match = _KEY.fullmatch(key.removeprefix(PREFIX))
            if match is None:
                changes.append(self._trained_whole(key))
                continue
            keys = modules.setdefault(match["module"], {})
            if (other := keys.setdefault(_PARTS[match["part"]], key)) != key:
                what = f"tensors {other!r} and {key!r} are two names for one: which counts is open"
                raise self.refused("MG102", what, _SAVE_AGAIN)
        for name, keys in sorted(modules.items()):
            changes += [] if experts.take(name, keys) else self._of_module(name, keys)
        changes += experts.changes()
        found: dict[str, Change] = {}
        for change in changes:  # both sides of a tied pair may be stored as equal copies
            first = found.setdefault(change.parameter, change)
            if first is not change and not self._are_copies(first, change):
                tied = self.base is not None and self.base.is_embedding(change.parameter)
                raise self.refused(
                    "MG002",
                    f"{change.parameter!r} is changed in two ways at once"
                    + (": the base ties its embeddings, the adapter changes both sides" * tied),
                    "merge the adapter into its base and list the checkpoint",
                )
        return list(found.values())

    def _of_module(self, module: str, keys: Keys) -> Iterator[Change]:
        if key := keys.pop("rows", None):
            yield self._rows(module, key)
        if key := keys.pop("base_bias", None):
            shape = self.tensors[key].shape
            yield Replacement(parameter=f"{module}.bias", key=key, shape=shape)
        if not keys:
            return
        # what PEFT makes no place for, it drops without a word
        for part, setting in (("magnitude", "use_dora"), ("bias", "lora_bias")):
            if part in keys and not self.config.get(setting):
                raise self.refused(
                    "MG102",
                    f"tensor {keys[part]!r} is stored, but {setting} is not set: PEFT drops it",
                    f"set {setting}: true if {module!r} was trained with it, or save the adapter "
                    "again",
                    where=CONFIG,
                )
        yield (factors := self._factors(module, keys))
        if key := keys.get("bias"):
            shape, scale = self.tensors[key].shape, factors.scale
            yield Offset(parameter=f"{module}.bias", key=key, shape=shape, scale=scale)

    def _factors(self, module: str, keys: Keys) -> Factors:
        embedding = "embedding_A" in keys or "embedding_B" in keys
        names = ("embedding_A", "embedding_B") if embedding else ("A", "B")
        if not set(names) <= set(keys):
            held = ", ".join(sorted(key.rpartition(f"{module}.")[2] for key in keys.values()))
            fix = f"{_SAVE_AGAIN}; half of this module is missing"
            raise self.refused("MG103", f"module {module!r} has only {held}", fix)
        if self.config.get("use_dora") and "magnitude" not in keys:
            what = f"module {module!r} has no lora_magnitude_vector, and the adapter is a DoRA"
            fix = f"{_SAVE_AGAIN}; a third of this module is missing"
            raise self.refused("MG103", what, fix)
        key_a, key_b = (keys[name] for name in names)
        a, b = self.tensors[key_a].shape, self.tensors[key_b].shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] == 0:
            what = f"the factors of {module!r} do not fit: A {a}, B {b}"
            empty = 0 in (*a, *b)
            raise self.refused("MG104", what, ZERO3 if empty else _SAVE_AGAIN)
        lengths = self.tensors[keys["magnitude"]] if "magnitude" in keys else None
        if lengths is not None and lengths.size != b[0]:
            what = f"DoRA's magnitudes of {module!r} are {list(lengths.shape)}, "
            what += f"not one for each of {b[0]} outputs"
            raise self.refused("MG104", what, _SAVE_AGAIN)
        parameter = self._parameter(f"{module}.weight")
        return Factors(
            parameter=parameter,
            key_a=key_a,
            key_b=key_b,
            shape_a=a,
            shape_b=b,
            scale=self.scale(module, a[0]),
            transposed=embedding or self._is_transposed(parameter, a, b),
            magnitude_key=keys.get("magnitude"),
            base_key=keys.get("base"),
        )

    def _is_transposed(self, parameter: str, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        """Whether the weight is stored as [inputs, outputs]; PEFT, too, goes by the layer alone,
        whatever ``fan_in_fan_out`` says."""
        if self.base is None or parameter not in self.base.tensors:
            return False
        if b[0] == a[1]:
            return self.base.stores_transposed(parameter)
        return self.base.tensors[parameter].shape == (a[1], b[0])

    def scale(self, module: str, stored_rank: int) -> float:
        config, expert = self.config, self.expert
        rank = pattern_value(module, config.get("rank_pattern"), expert=expert) or config.get("r")
        alpha = pattern_value(module, config.get("alpha_pattern"), expert=expert)
        alpha = config.get("lora_alpha") if alpha is None else alpha
        if rank != stored_rank or not _is_finite(alpha):
            raise self.refused(
                "MG104",
                f"module {module!r} has rank {stored_rank}, its configuration says "
                f"r={rank!r}, lora_alpha={alpha!r}",
                _OTHER_WEIGHTS,
                where=CONFIG,
            )
        return float(alpha) / (math.sqrt(stored_rank) if config.get("use_rslora") else stored_rank)

    def _trained_whole(self, key: str) -> Replacement:
        """A parameter that was trained beside the factors: PEFT saves it under its plain name."""
        parameter = WRAPPED.sub(".", key.removeprefix(PREFIX))
        trained = is_saved(parameter.rpartition(".")[0], saved_modules(self.config))
        bias = self.config.get("bias") in ("all", "lora_only") and parameter.endswith(".bias")
        # PEFT saves copies of these where one of them is adapted or resized
        if not (trained or bias or (self.base is not None and self.base.is_embedding(parameter))):
            raise self.refused(
                "MG102",
                f"tensor {key!r} is not a LoRA factor of a base module, nor of modules_to_save",
                f"PEFT names tensors {PREFIX}<module>.lora_A.weight; a changed name makes it drop "
                "them without a word",
            )
        shape = self.tensors[key].shape
        return Replacement(parameter=self._parameter(parameter), key=key, shape=shape)

    def _rows(self, module: str, key: str) -> Rows:
        """PEFT's trainable tokens: the rows' new values, whatever the tensor's name says."""
        wanted = self.config.get("trainable_token_indices")
        if isinstance(wanted, dict):
            wanted = next((v for k, v in wanted.items() if f".{module}".endswith(f".{k}")), None)
        header = self.tensors[key]
        # as many as are stored, and any: then the file is as large as the list is long
        listed = wanted if header.size and isinstance(wanted, list) else []
        fits = len(header.shape) == 2 and header.shape[0] == len(listed)
        rows = fits and all(type(row) is int and row >= 0 for row in listed)
        if not rows or len(set(listed)) != len(listed):
            raise self.refused(
                "MG104",
                f"{key!r} is {list(header.shape)}, trainable_token_indices of {module!r} is "
                f"{shown(str(wanted))}",
                _OTHER_WEIGHTS,
                where=CONFIG,
            )
        parameter = self._parameter(f"{module}.weight")
        return Rows(parameter=parameter, key=key, rows=tuple(listed), width=header.shape[1])

    def _are_copies(self, one: Change, other: Change) -> bool:
        if not isinstance(one, Replacement) or not isinstance(other, Replacement):
            return False
        return np.array_equal(self.tensors.floats(one.key), self.tensors.floats(other.key))

    def _parameter(self, name: str) -> str:
        return self.base.parameter(name) if self.base else name

    def refused(self, code: str, what: str, fix: str, *, where: str = WEIGHTS) -> PoolError:
        return PoolError(what, code=code, expert=self.expert, where=where, fix=fix)


def _is_finite(value: object) -> TypeGuard[float]:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False
