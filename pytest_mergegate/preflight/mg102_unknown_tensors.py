"""MG102: tensors of an expert that match nothing in the base, or only once they are renamed; PEFT
drops them silently."""

import difflib

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.changes import Offset
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.heads import head_of
from pytest_mergegate.preflight.told import Findings, error, warning

_OTHER_BASE = "gate against the base it was trained on, or restore the tensor names"
_NO_BIAS = "under lora_bias, PEFT merges only into layers with a bias; train without lora_bias"
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_COMPARED = 200
"""Characters of a name: looking for a similar one takes their square."""


def find(pool: Pool) -> Findings:
    """Every parameter that an expert changes must be one of the base; heads are MG114's."""
    for expert in pool.experts:
        if expert.repair is not None:
            yield warning(
                f"{expert.repair}; PEFT itself drops such tensors without a word",
                f"mergegate convert {shown(expert.reference)} writes them under PEFT's names",
                expert.name,
            )
        unknown = [
            parameter
            for parameter, change in expert.changes.items()
            if parameter not in pool.base.tensors
            and (isinstance(change, Offset) or not head_of(parameter))
        ]
        if unknown:
            count = f"{len(unknown)} of {len(expert.changes)}"
            whose = "adapted" if expert.is_adapter else "stored"
            yield error(
                f"{count} {whose} parameters match nothing in the base, first "
                f"{shown(unknown[0])!r}{_hint(unknown[0], pool.base)}",
                _NO_BIAS if isinstance(expert.changes[unknown[0]], Offset) else _OTHER_BASE,
                expert.name,
                final=True,
            )


def _hint(parameter: str, base: Base) -> str:
    """The base's parameter that was probably meant."""
    if len(parameter) > _COMPARED:
        return ""
    module = parameter.removesuffix(".weight").rpartition(".")[2]
    for fused, parts in _FUSED.items():
        there = all(any(f".{part}.weight" in name for name in base.tensors) for part in parts)
        if module == fused and there:
            told = " and ".join(parts)
            return f"; it was trained on a model that fuses what the base has as {told} (vLLM, ...)"
        if module in parts and any(f".{fused}.weight" in name for name in base.tensors):
            return f"; it was trained on a model that splits what the base has as {fused}"
    ending = parameter.rpartition(".")[2]
    alike = [name for name in base.tensors if name.endswith(ending)]
    close = difflib.get_close_matches(parameter, alike, n=1)
    return f"; the base has {close[0]!r}" if close else ""
