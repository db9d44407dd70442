"""MG103: what an expert should hold, by its configuration or its base, and what it holds."""

from collections.abc import Collection, Iterator

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import strings
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapters import CONFIG, PREFIX, is_saved, is_within, saved_modules
from pytest_mergegate.pool.base import OUTPUT_WEIGHTS, Base
from pytest_mergegate.pool.changes import Computed, ExpertFactors, Factors
from pytest_mergegate.pool.expert_modules import is_targeted
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.targets import Targets, selection
from pytest_mergegate.pool.tensors import StoredTensors
from pytest_mergegate.preflight.told import Findings, error

_SAVE_AGAIN = "save the adapter again with PEFT's save_pretrained"


def find(pool: Pool) -> Findings:
    """Targeted and adapted modules must be the same; checkpoints must be whole."""
    targets = Targets(pool.base)
    if pool.merged is not None and pool.merged.tensors is not None:
        yield from _finished(pool.base, pool.merged.tensors)
    for expert in pool.experts:
        if not expert.is_adapter:
            yield from _checkpoint(expert, pool.base)
            continue
        try:
            yield from _targeted(expert, pool.base, targets)
        except PoolError as error:  # an expression that cannot be matched
            yield Finding.of(error)
        yield from _trained(expert, pool.base)


def _targeted(expert: Expert, base: Base, targets: Targets) -> Findings:
    chosen = selection(expert.config, expert=expert.name)
    named = strings(expert.config.get("target_parameters"))
    if chosen is None and not named:
        if expert.config.get("target_modules") is not None:
            said = "target_modules or layers_to_transform name no modules and no layers"
            yield error(f"{CONFIG}: {said}", _SAVE_AGAIN, expert.name)
        return
    targeted = {parameter for parameter in base.tensors if is_targeted(parameter, named)}
    if chosen is not None:
        targeted |= targets.parameters(chosen, expert=expert.name)
    saved = chosen.saved if chosen is not None else ()
    adapted = {
        change.parameter
        for change in expert.changes.values()
        if isinstance(change, (Factors, ExpertFactors, Computed))
        and (change.parameter.endswith(".weight") or is_targeted(change.parameter, named))
        and change.parameter in base.tensors
        and not is_within(change.parameter, saved)
        and not (isinstance(change, Computed) and _is_whole(change, saved))
    }
    for odd, says in (
        (targeted - adapted, "are targeted by the configuration but have no tensors"),
        (adapted - targeted, "have tensors but are not targeted by the configuration"),
    ):
        if odd:
            first = shown(min(odd).removesuffix(".weight"))
            yield error(f"{len(odd)} modules {says}, first {first!r}", _SAVE_AGAIN, expert.name)


def _is_whole(change: Computed, saved: Collection[str]) -> bool:
    """Whether a module was trained whole, or some rows of it, beside what PEFT works out."""
    module = change.parameter.rpartition(".")[0]
    rows = bool(change.keys) and all(".token_adapter." in key for key in change.keys)
    return rows or is_saved(module, [*saved])


def _trained(expert: Expert, base: Base) -> Findings:
    """modules_to_save, and biases under ``bias: all`` and ``lora_bias``, must be there."""
    names, bias = saved_modules(expert.config), expert.config.get("bias")
    known = set(_parameters(base))
    wanted = {p for p in known if is_saved(p.rpartition(".")[0], names)}
    keys = [c.key_a for c in expert.changes.values() if isinstance(c, Factors)]
    own = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in keys if ".lora_A" in key}
    biases = {f"{module}.bias" for module in own}
    if bias == "all":
        wanted |= {p for p in known if p.endswith(".bias")}
    if bias == "lora_only":
        wanted |= biases & known
    if expert.config.get("lora_bias") is True:
        wanted |= biases
    if missing := wanted - set(expert.changes):
        settings = "modules_to_save, bias or lora_bias"
        said = f"{len(missing)} parameters that {settings} call for have no tensors"
        yield error(f"{said}, first {shown(min(missing))!r}", _SAVE_AGAIN, expert.name)


def _checkpoint(expert: Expert, base: Base) -> Findings:
    held = {*expert.changes, *expert.tensors}
    lacking = [p for p in _parameters(base) if p not in held]
    if lacking:
        yield error(
            f"the checkpoint lacks {len(lacking)} of the base's {len(base.tensors)} tensors, "
            f"first {lacking[0]!r}",
            "save it again as a whole, with every shard; the same class as the base",
            expert.name,
        )


def _finished(base: Base, tensors: StoredTensors) -> Findings:
    lacking = [p for p in _parameters(base) if p not in tensors]
    if lacking:
        yield error(
            f"the finished merge lacks {len(lacking)} of the base's {len(base.tensors)} tensors, "
            f"first {lacking[0]!r}",
            "write it again as a whole, with every shard",
        )


def _parameters(base: Base) -> Iterator[str]:
    """Stored parameters of the base, without integers and other names of the embedding."""
    shared = "shared.weight" in base.tensors
    for name, header in base.tensors.items():
        tied = (base.ties_embeddings and name in OUTPUT_WEIGHTS) or (
            shared and name.endswith("embed_tokens.weight")
        )
        if header.is_float and not tied:
            yield name
