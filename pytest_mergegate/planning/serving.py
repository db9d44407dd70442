"""What it takes to serve a pool's adapters unmerged, from their files alone."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.changes import Computed, Replacement, Rows
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as ``--max-lora-rank``."""
_PLAIN = re.compile(r"[\w.-]+")
_SWAPPED = ("use_rslora", "lora_dropout", "alpha_pattern", "use_dora")
"""In which PEFT's ``hotswap_adapter`` asks two adapters to agree."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """One way to serve the experts side by side, each request with its own."""

    tool: str
    text: str
    steps: tuple[str, ...]
    """What to type, in the folder of the gate file."""


def serving_of(pool: Pool) -> tuple[Serving, ...]:
    """By vLLM, where it takes any of the adapters, and by PEFT; empty for a pool without adapters.

    Nothing is loaded: what counts are configurations, and the names of tensors.
    """
    adapters = [expert for expert in pool.experts if expert.is_adapter]
    whole = [f"{e.name} (a full checkpoint)" for e in pool.experts if not e.is_adapter]
    if not adapters:
        return ()
    found = [_by_vllm(pool.base, adapters, whole), _by_peft(pool.base, adapters, whole)]
    return tuple(way for way in found if way is not None)


def _by_vllm(base: Base, adapters: Sequence[Expert], whole: Sequence[str]) -> Serving | None:
    reasons = {expert.name: vllm_refuses(expert) for expert in adapters}
    fit = [expert for expert in adapters if reasons[expert.name] is None]
    if not fit or "CausalLM" not in base.architecture:
        return None
    ranks = [int(expert.config["r"]) for expert in fit]
    limit = next(size for size in _RANKS if size >= max(ranks))
    left = [*(f"{name} ({why})" for name, why in reasons.items() if why), *whole]
    modules = [_vllm_module(expert) for expert in fit]
    command = [
        *("vllm", "serve", _place(base), "--enable-lora"),
        *("--max-loras", str(len(fit)), "--max-lora-rank", str(limit), "--lora-modules", *modules),
    ]
    text = f"the base with {_counted(fit)} at rank {limit}, each request names its own"
    return Serving(
        tool="vLLM", text=text + _apart(left), steps=(" ".join(map(shlex.quote, command)),)
    )


def vllm_refuses(expert: Expert) -> str | None:
    """Why vLLM does not serve an adapter as it is, or would serve another one; None where it does
    (``vllm/lora/peft_helper.py``)."""
    config = expert.config
    if config.get("peft_type") != "LORA":
        return f"vLLM serves LoRA alone, not {expert.kind}"
    if config.get("use_dora"):
        return "DoRA"
    if config.get("modules_to_save"):
        return f"modules_to_save: {', '.join(map(str, _listed(config['modules_to_save'])))}"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        return "trained biases"
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        return "rank_pattern or alpha_pattern, and vLLM reads one rank and one alpha"
    if config.get("trainable_token_indices"):
        return "trained tokens, which only recent releases take"
    changes = expert.changes.values()
    if any(isinstance(change, Computed) for change in changes):
        return "its start changes the base; convert it to plain LoRA"
    if any(isinstance(change, (Replacement, Rows)) for change in changes):
        return "parameters that were trained beside the factors"
    rank = config.get("r")
    if type(rank) is not int or not 0 < rank <= _RANKS[-1]:
        return f"rank {rank}, and vLLM takes {_RANKS[-1]} at most"
    return None


def _vllm_module(expert: Expert) -> str:
    """An adapter as ``--lora-modules`` takes it."""
    place = _place(expert)
    if _PLAIN.fullmatch(expert.name):
        return f"{expert.name}={place}"
    return json.dumps({"name": expert.name, "path": place})


def _by_peft(base: Base, adapters: Sequence[Expert], whole: Sequence[str]) -> Serving:
    """PEFT holds adapters of one type in one model, and no more than one with trained biases."""
    kinds = Counter(str(expert.config.get("peft_type")) for expert in adapters)
    ((kind, _),) = kinds.most_common(1)
    same = [expert for expert in adapters if expert.config.get("peft_type") == kind]
    biased = [expert for expert in same if expert.config.get("bias", "none") != "none"]
    together = same if len(same) == 1 else [expert for expert in same if expert not in biased]
    together = together or same[:1]
    left = [f"{e.name} ({e.kind})" for e in adapters if e not in same]
    left += [f"{e.name} (trained biases)" for e in biased if e not in together]
    first, *rest = together
    held = f"adapter_name={first.name!r}"
    steps = [f"model = PeftModel.from_pretrained(base, {_place(first)!r}, {held})"]
    steps += [f"model.load_adapter({_place(e)!r}, adapter_name={e.name!r})" for e in rest]
    steps.append(f"model.set_adapter({first.name!r})  # before each request")
    size = (
        sum(tensor.stop - tensor.start for e in together for tensor in e.tensors.values()) / 2**20
    )
    text = f"the base and {_counted(together)} ({size:,.1f} MiB) in one model"
    if rest:
        why = _not_swapped(together)
        text += f"; hotswap_adapter {'swaps them in place' if why is None else f'does not: {why}'}"
    return Serving(tool="PEFT", text=text + _apart([*left, *whole]), steps=tuple(steps))


def _not_swapped(adapters: Sequence[Expert]) -> str | None:
    """Why PEFT's ``hotswap_adapter`` does not put one adapter in the place of another."""
    if any(expert.config.get("peft_type") != "LORA" for expert in adapters):
        return "it swaps LoRA alone"
    odd = (name for name in _SWAPPED if len({_settled(e.config.get(name)) for e in adapters}) > 1)
    if (name := next(odd, None)) is not None:
        return f"they differ in {name}"
    keys = [{*expert.tensors} for expert in adapters]
    if not any(all(other <= own for other in keys) for own in keys):
        return "none of them adapts all modules of the others"
    return None


def _settled(value: Any) -> str:
    """A setting to compare; unset is as good as its default."""
    return json.dumps(value, sort_keys=True, default=str) if value else ""


def _place(model: Base | Expert) -> str:
    """Where it lies: as the gate file has it, or its snapshot of a repository, which is pinned."""
    return model.reference if model.located.repository is None else str(model.located.path)


def _counted(experts: Sequence[Expert]) -> str:
    return f"{len(experts)} adapter{'s' * (len(experts) != 1)}"


def _apart(left: Sequence[str]) -> str:
    return f"; on their own: {', '.join(left)}" if left else ""


def _listed(value: object) -> Iterator[object]:
    yield from value if isinstance(value, (list, tuple)) else [value]
