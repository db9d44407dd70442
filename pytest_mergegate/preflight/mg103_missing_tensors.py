"""MG103: the adapter's configuration and its tensors name different modules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_mergegate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.adapters import Expert
    from pytest_mergegate.pool.pool import Base, Pool

_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
_NOT_LINEAR = ("embed", "norm", "wte", "wpe", "shared")


def missing_tensors(pool: Pool) -> Iterable[Finding]:
    """Targeted modules and modules with tensors must be the same set."""
    for expert in pool.experts:
        modules = {module.module for module in expert.modules.values()}
        targeted = _targeted(expert, pool.base)
        for odd, says in (
            (targeted - modules, "are targeted by the configuration but have no tensors"),
            (modules - targeted, "have tensors but are not targeted by the configuration"),
        ):
            known = {m for m in odd if f"{m}.weight" in pool.base.tensors}
            if known:
                yield Finding(
                    code="MG103",
                    severity="error",
                    expert=expert.name,
                    message=f"{len(known)} modules {says}, first {min(known)!r}",
                    fix="save the adapter again with PEFT's save_pretrained",
                )


def _targeted(expert: Expert, base: Base) -> set[str]:
    modules = {
        name.removesuffix(".weight")
        for name, header in base.tensors.items()
        if name.endswith(".weight") and len(header.shape) == 2
    }
    if expert.target_modules == "all-linear":
        # PEFT leaves out the output layer, and writes the resolved names when it saves
        return {
            m
            for m in modules
            if not m.endswith("lm_head") and not any(part in m for part in _NOT_LINEAR)
        }
    return {m for m in modules if _matches(expert, m)}


def _matches(expert: Expert, module: str) -> bool:
    if expert.exclude_modules and _named(expert.exclude_modules, module):
        return False
    if not _named(expert.target_modules, module):
        return False
    if expert.layers and not isinstance(expert.target_modules, str):
        layer = _LAYER.match(module)
        return layer is not None and int(layer[1]) in expert.layers
    return True


def _named(names: str | tuple[str, ...], module: str) -> bool:
    if isinstance(names, str):
        try:
            return re.fullmatch(names, module) is not None
        except re.error:
            return False
    return any(module == name or module.endswith(f".{name}") for name in names)
