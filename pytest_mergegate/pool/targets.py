"""Which modules of a base PEFT adapts, by what an adapter's configuration says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import strings
from pytest_mergegate.pool.adapters import CONFIG, is_within, saved_modules
from pytest_mergegate.pool.base import OUTPUT_LAYERS, Base
from pytest_mergegate.pool.patterns import matches_fully

ALL_LINEAR = "all-linear"
_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)
_MOST_PATTERNS, _LONGEST = 16, 200
_NOT_LINEAR = ("embed", "norm", "wte", "wpe", "shared", "relative_attention_bias")
_CLASSIFIERS = ("score", "classifier")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The settings that choose modules; hashable, as the adapters of a pool share them."""

    names: str | frozenset[str]
    """A regular expression over whole names, or the ends of names."""
    excluded: str | frozenset[str]
    layers: frozenset[int]
    """Empty for all of them."""
    layers_patterns: tuple[str, ...]
    saved: frozenset[str]
    """modules_to_save, which PEFT never adapts."""
    classifies: bool


def selection(config: Mapping[str, Any], *, expert: str) -> Selection | None:
    """What a configuration chooses; None where it is not for us to say what that is.

    Raises PoolError for more than any model has lists of layers.
    """
    names, excluded = _names(config.get("target_modules")), _names(config.get("exclude_modules"))
    layers = config.get("layers_to_transform")
    listed = layers if isinstance(layers, list) else [] if layers is None else [layers]
    if names is None or any(type(layer) is not int for layer in listed):
        return None
    patterns = config.get("layers_pattern")
    named = strings([patterns] if isinstance(patterns, str) else patterns)
    if len(named) > _MOST_PATTERNS or any(len(pattern) > _LONGEST for pattern in named):
        raise PoolError(
            f"layers_pattern holds more than {_MOST_PATTERNS} names of lists of layers, or longer "
            f"ones than {_LONGEST} characters",
            expert=expert,
            where=CONFIG,
            fix="name the one list of layers of this model, such as layers",
        )
    return Selection(
        names=names,
        excluded=excluded or frozenset(),
        layers=frozenset(listed),
        layers_patterns=tuple(named),
        saved=frozenset(saved_modules(config)),
        classifies=config.get("task_type") == "SEQ_CLS",
    )


class Targets:
    """The adapted parameters of one base, by selection; each is worked out once."""

    def __init__(self, base: Base) -> None:
        self._linear = base.loaded.linear if base.loaded is not None else None
        self._parameters = {
            name.removesuffix(".weight"): name for name in base.tensors if name.endswith(".weight")
        }
        for module in OUTPUT_LAYERS:  # under its own name even where it is the embedding
            if (parameter := base.parameter(f"{module}.weight")) in base.tensors:
                self._parameters[module] = parameter
        self._known: dict[Selection, frozenset[str]] = {}

    def parameters(self, chosen: Selection, *, expert: str) -> frozenset[str]:
        """The parameters of ``chosen`` modules. Raises PoolError for unusable expressions."""
        if chosen not in self._known:
            self._known[chosen] = frozenset(
                parameter
                for module, parameter in self._parameters.items()
                if _chooses(chosen, module, expert)
                and (self._linear is None or not _is_all(chosen.names) or module in self._linear)
            )
        return self._known[chosen]


def _names(value: object) -> str | frozenset[str] | None:
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return frozenset(value)
    return value if isinstance(value, str) else None


def _is_all(names: str | frozenset[str]) -> bool:
    return isinstance(names, str) and names.lower() == ALL_LINEAR


def _chooses(chosen: Selection, module: str, expert: str) -> bool:
    """PEFT's check_target_module_exists."""
    if chosen.excluded and _named(chosen.excluded, module, expert):
        return False
    if chosen.saved and is_within(module, chosen.saved):
        return False
    if _is_all(chosen.names):
        # PEFT leaves out the output layer, and a classifier's last layer
        last = (*OUTPUT_LAYERS, *_CLASSIFIERS) if chosen.classifies else OUTPUT_LAYERS
        return module not in last and not any(part in module for part in _NOT_LINEAR)
    if not _named(chosen.names, module, expert):
        return False
    # layers count beside a list of names only, and not for a module that is named in full
    any_layer = isinstance(chosen.names, str) or module in chosen.names or not chosen.layers
    return any_layer or _layer(module, chosen.layers_patterns, expert) in chosen.layers


def _named(names: str | frozenset[str], module: str, expert: str) -> bool:
    if isinstance(names, str):
        return matches_fully(names, module, expert=expert)
    parts = module.split(".")
    return any(".".join(parts[start:]) in names for start in range(len(parts)))


def _layer(module: str, patterns: tuple[str, ...], expert: str) -> int | None:
    """The first number in a module's name, behind one of ``patterns`` where there are any."""
    parts = module.split(".")
    for place in range(1, len(parts) - 1):
        if not parts[place].isdecimal():
            continue
        before = ".".join(parts[:place])
        if (not patterns and place > 1) or any(_ends(before, p, expert) for p in patterns):
            return int(parts[place])
    return None


def _ends(text: str, pattern: str, expert: str) -> bool:
    if _NAME.fullmatch(pattern):
        return f".{text}".endswith(f".{pattern}")
    return matches_fully(rf"(.*\.)?({pattern})", text, expert=expert)
