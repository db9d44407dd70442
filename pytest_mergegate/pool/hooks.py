"""What a model's configuration names of code and kernels, and how it is left out."""

from collections.abc import Mapping
from typing import Any

_CODE = frozenset(("auto_map", "custom_pipelines"))
"""Where a configuration names code of its own, in its folder or on the hub."""
_IMPLEMENTATIONS = frozenset(
    f"{before}{part}_implementation{after}"
    for part in ("attn", "experts")
    for before in ("", "_")
    for after in ("", "_internal", "_autoset")
)
"""Which code computes attention: the name may be that of a repository, which is fetched and run."""
_KERNELS = frozenset(("fusion_config", "kernel_config", "use_kernels"))


def without_hooks(config: Mapping[str, Any], *, code: bool) -> dict[str, Any]:
    """``config`` without the names of implementations and kernels, and of ``code`` unless it may
    have some. Parts that are configurations themselves are treated alike."""
    dropped = _IMPLEMENTATIONS | _KERNELS | (frozenset() if code else _CODE)
    return {name: _plain(value, code) for name, value in config.items() if name not in dropped}


def _plain(value: Any, code: bool) -> Any:
    if isinstance(value, dict):
        return without_hooks(value, code=code)
    return [_plain(entry, code) for entry in value] if isinstance(value, list) else value


def take_hooks_out(config: Any) -> None:
    """The same for a configuration that transformers has read: it picks the implementation."""
    config._attn_implementation = config._experts_implementation = None
    for name in _KERNELS & set(vars(config)):
        delattr(config, name)
    for name in getattr(config, "sub_configs", ()):  # and those inside of it, however deep
        part = getattr(config, name, None)
        if hasattr(part, "_attn_implementation"):
            take_hooks_out(part)
