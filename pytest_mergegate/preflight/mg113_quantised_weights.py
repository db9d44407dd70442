"""MG113: a base, or a full checkpoint, whose weights are stored quantised."""

from collections.abc import Mapping
from typing import Any

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tensors import StoredTensors
from pytest_mergegate.preflight.told import Findings, error

_WEIGHTS = (".weight", ".bias", ".qweight", ".weight_packed")


def find(pool: Pool) -> Findings:
    """Arithmetic on quantised weights is not arithmetic on the weights."""
    models: list[tuple[str | None, Mapping[str, Any], StoredTensors]] = [
        (None, pool.base.config, pool.base.tensors),
        *((e.name, e.config, e.tensors) for e in pool.experts if not e.is_adapter),
    ]
    for name, config, tensors in models:
        if (how := _how(config, tensors)) is not None:
            said = f"the {'checkpoint' if name else 'base'} is quantised: {how}"
            fix = "use the full-precision original, and quantise the merge afterwards"
            yield error(said, fix, name, final=True)


def _how(config: Mapping[str, Any], tensors: StoredTensors) -> str | None:
    if settings := config.get("quantization_config"):
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        detail = f" ({shown(method, 40)})" if isinstance(method, str) else ""
        return f"config.json has a quantization_config{detail}"
    for name, header in tensors.items():
        if not header.is_float and name.endswith(_WEIGHTS):
            return f"{shown(name)!r} is stored as {header.dtype}"
    return None
