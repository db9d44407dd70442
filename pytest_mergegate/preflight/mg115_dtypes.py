"""MG115: weights stored in several precisions, or in another than the configuration says."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tensors import StoredTensors
from pytest_mergegate.preflight.told import Findings, grouped, listed, warning

_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_FIX = "save all of them in one precision, the highest that any of them was trained in"


def find(pool: Pool) -> Findings:
    """Look at the type of most of the numbers: norms are often kept in another."""
    base = _main(pool.base.tensors)
    stored = {expert.name: _main(expert.tensors) for expert in pool.experts}
    yield from _mixed(pool, stored)
    yield from grouped(pool, _against_base(pool, stored, base))
    checkpoints = [expert for expert in pool.experts if not expert.is_adapter]
    odd = ((e.name, _against_config(e.config, stored[e.name])) for e in checkpoints)
    yield from grouped(pool, (warning(said, _FIX, name) for name, said in odd if said))
    if said := _against_config(pool.base.config, base):
        yield warning(f"the base is {said}", "save it again")


def _against_base(pool: Pool, stored: Mapping[str, str | None], base: str | None) -> Findings:
    for expert in pool.experts:
        own = stored[expert.name]
        # adapters are trained and saved in float32 on a base in half precision: as it should be
        halves = {own, base} == {"F16", "BF16"}
        if own and base and (halves or (not expert.is_adapter and own != base)):
            yield warning(f"stored in {own}, the base in {base}", _FIX, expert.name)


def _mixed(pool: Pool, stored: Mapping[str, str | None]) -> Findings:
    """One finding for the adapters among themselves; checkpoints are held against the base."""
    by_type: dict[str, list[str]] = {}
    for expert in pool.experts:
        if expert.is_adapter and (own := stored[expert.name]):
            by_type.setdefault(own, []).append(expert.name)
    if len(by_type) > 1:
        parts = "; ".join(f"{dtype}: {listed(names)}" for dtype, names in sorted(by_type.items()))
        yield warning(f"the adapters are stored in several precisions ({parts})", _FIX)


def _main(tensors: StoredTensors) -> str | None:
    """The element type of most of the floating-point numbers."""
    sizes: Counter[str] = Counter()
    for header in tensors.values():
        if header.is_float:
            sizes[header.dtype] += header.size
    return max(sizes, key=lambda dtype: sizes[dtype], default=None)


def _against_config(config: Mapping[str, Any], stored: str | None) -> str | None:
    named = config.get("dtype", config.get("torch_dtype"))
    said = _NAMES.get(named.removeprefix("torch.")) if isinstance(named, str) else None
    if stored is None or said is None or said == stored:
        return None
    return f"stored in {stored}, config.json says {said}"
