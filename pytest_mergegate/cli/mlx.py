"""Adapters of mlx-lm written as PEFT writes them (``mergegate convert``)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import GateError, PoolError, UsageError
from pytest_mergegate.common.files.writing import write_file
from pytest_mergegate.common.plain_text import say, shown
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.pool.adapters import CONFIG, PREFIX, WEIGHTS
from pytest_mergegate.pool.tensors import StoredTensors

MLX = "adapters.safetensors"
_KEY = re.compile(r"(?P<module>\w+(\.\w+)*)\.lora_(?P<part>[ab])", re.ASCII)


def convert_mlx(
    folder: Path, output: Path | None, config: Mapping[str, Any], base: str | None
) -> int:
    """Write A and B, which mlx-lm keeps transposed, and the settings that give the same scale.

    Returns the exit code. Raises UsageError, GateError.
    """
    if output is None:
        fix = f"name a folder: its {CONFIG} is another than mlx-lm's"
        raise UsageError("convert: an adapter of mlx-lm needs --output", fix=fix)
    settings = _settings(config, base, folder)
    tensors = StoredTensors([folder / MLX])
    found = {key: _KEY.fullmatch(key) for key in tensors}
    if odd := next((key for key, match in found.items() if match is None), None):
        what = f"tensor {shown(odd)!r} is no factor of LoRA"
        raise PoolError(what, code="MG002", where=folder.name, fix="fuse it: mlx_lm.fuse")
    modules = sorted({match["module"] for match in found.values() if match})
    ranks = {tensors[key].shape[-1] for key, m in found.items() if m and m["part"] == "a"}
    if len(ranks) != 1 or any(len(tensors[key].shape) != 2 for key in tensors):
        what = f"its factors have ranks {sorted(ranks)}, or are no matrices"
        raise PoolError(what, code="MG002", where=folder.name, fix="fuse it: mlx_lm.fuse")
    (rank,) = ranks
    settings |= {"r": rank, "lora_alpha": settings.pop("scale") * rank, "target_modules": modules}
    from safetensors.torch import load_file, save

    held = load_file(folder / MLX)
    state = {}
    for key, match in found.items():
        assert match is not None
        name = f"{PREFIX}{match['module']}.lora_{match['part'].upper()}.weight"
        state[name] = held[key].T.contiguous()
    try:
        write_file(output / CONFIG, json.dumps(settings, indent=2) + "\n")
        write_file(output / WEIGHTS, save(state, {"format": "pt"}))
    except OSError as error:
        raise GateError(str(error), fix="make room, or choose another folder") from None
    say([f"wrote {output / WEIGHTS}: {len(modules)} modules of mlx-lm's {MLX}"])
    return Exit.PASSED


def _settings(config: Mapping[str, Any], base: str | None, folder: Path) -> dict[str, Any]:
    lora = config.get("lora_parameters")
    scale = lora.get("scale") if isinstance(lora, dict) else None
    if config.get("fine_tune_type", "lora") != "lora" or type(scale) not in (int, float):
        what = f"its {CONFIG} names no LoRA of mlx-lm's: no lora_parameters with a scale"
        raise PoolError(what, code="MG002", where=folder.name, fix="fuse it: mlx_lm.fuse")
    named = base or config.get("model")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": named if isinstance(named, str) else None,
        "scale": float(scale),  # type: ignore[arg-type]
    }
