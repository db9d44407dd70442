"""A model's configuration without what makes transformers fetch or import something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

CODE = frozenset(("auto_map", "custom_pipelines"))
"""Where a configuration names code of its own, in its folder or on the hub."""
IMPLEMENTATIONS = frozenset(
    f"{before}{part}_implementation{after}"
    for part in ("attn", "experts")
    for before in ("", "_")
    for after in ("", "_internal", "_autoset")
)
"""Which code computes attention: the name may be that of a repository, which is fetched and run."""
KERNELS = frozenset(("fusion_config", "kernel_config", "use_kernels"))


def without_hooks(config: Mapping[str, Any], *, code: bool) -> dict[str, Any]:
    """``config`` without the names of implementations and kernels, and of ``code`` unless it may
    have some. Parts that are configurations themselves are treated alike."""
    dropped = IMPLEMENTATIONS | KERNELS | (frozenset() if code else CODE)
    return {name: _plain(value, code) for name, value in config.items() if name not in dropped}


def _plain(value: Any, code: bool) -> Any:
    if isinstance(value, dict):
        return without_hooks(value, code=code)
    return [_plain(entry, code) for entry in value] if isinstance(value, list) else value


def take_hooks_out(config: Any) -> None:
    """The same for a configuration that transformers has read: it picks the implementation."""
    for part in (config, *_parts(config)):
        part._attn_implementation = part._experts_implementation = None
        for name in KERNELS & set(vars(part)):
            delattr(part, name)


def _parts(config: Any) -> list[Any]:
    """The configurations inside of ``config``, however deep."""
    found = [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
    inside = [part for part in found if hasattr(part, "_attn_implementation")]
    return inside + [deeper for part in inside for deeper in _parts(part)]
