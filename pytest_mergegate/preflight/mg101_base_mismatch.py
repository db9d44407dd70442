"""MG101: an expert says it was trained on another base, or another kind of model."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.model_names import last_part, unquantised
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.heads import architecture_of, task_of
from pytest_mergegate.preflight.told import error

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_SIZES = (
    *("hidden_size", "d_model", "n_embd", "dim"),
    *("intermediate_size", "ffn_dim", "d_ff", "n_inner", "hidden_dim"),
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    *("num_attention_heads", "num_heads", "n_head", "n_heads", "num_key_value_heads"),
)
_ACTIVATIONS = ("hidden_act", "activation_function")
_FORWARD = (
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    *("sliding_window", "head_dim", "final_logit_softcapping", "attn_logit_softcapping"),
)
_FAR = 0.7
_OTHER_FORWARD = (
    "gate it against the base it was fine-tuned from, or, where the merge is meant to run under "
    "the base's settings, say so: `ignore: {MG101: <why>}`"
)
_OR_IGNORE = "or, where both are the same weights, say so: `ignore: {MG101: <why>}`"


def find(pool: Pool) -> Iterable[Finding]:
    """Hold what an expert says of its base against the gate's."""
    names = pool.base.names
    for expert in pool.experts:
        if expert.is_adapter:
            checks = (_name(expert, pool.base, names), _revision(expert, pool.base))
            yield from filter(None, (*checks, _task(expert, pool.base)))
        else:
            yield from _checkpoint(expert, pool.base)
            yield from _far_away(expert, pool.statistics[expert.name].relative_norm)


def _name(expert: Expert, base: Base, names: frozenset[str]) -> Finding | None:
    """Compare the last part of the names: folders move, but a model keeps its name."""
    trained_on = expert.base_reference
    if trained_on is None or {(name := last_part(trained_on)), unquantised(name)} & names:
        return None
    return error(
        f"the adapter was trained on {shown(trained_on)!r}, the gate's base is {base.reference!r}",
        "correct base: in the gate file, or, where both are the same weights under two names, "
        "say so: `ignore: {MG101: <why>}`",
        expert=expert.name,
    )


def _revision(expert: Expert, base: Base) -> Finding | None:
    """PEFT itself loads whatever revision of the base it is given."""
    wanted, located = expert.config.get("revision"), base.located
    if not isinstance(wanted, str) or not wanted or located.repository is None:
        return None
    if _COMMIT.fullmatch(wanted):
        if located.commit is None or located.commit.startswith(wanted):
            return None
    elif wanted == (located.revision or "main") or located.pinned:
        return None  # a branch may well point to the commit
    return error(
        f"the adapter was trained on revision {shown(wanted)!r} of its base, "
        f"the gate's is {located.revision or located.commit or 'main'!r}",
        f"write `base: {located.repository}@{shown(wanted)}`, {_OR_IGNORE}",
        expert=expert.name,
    )


def _task(expert: Expert, base: Base) -> Finding | None:
    """A head of another kind is not there to be adapted."""
    wanted, offered = expert.config.get("task_type"), task_of(base.config)
    if not isinstance(wanted, str) or offered is None:
        return None
    if wanted in {"", offered, "FEATURE_EXTRACTION"}:
        return None
    return error(
        f"the adapter was trained for task_type={shown(wanted)!r}, "
        f"the base is a {base.architecture} ({offered})",
        "gate against the class of model that it was trained on, saved with save_pretrained",
        expert=expert.name,
    )


def _checkpoint(expert: Expert, base: Base) -> Iterator[Finding]:
    own = expert.config.get("model_type")
    if isinstance(own, str) and base.model_type and own != base.model_type:
        said = f"the checkpoint is a {shown(own)!r} model, the base a {base.model_type!r} model"
        yield error(said, "leave it out, or gate it against its own base", expert=expert.name)
        return
    tasks = task_of(expert.config), task_of(base.config)
    if tasks[0] != tasks[1] and None not in tasks and "FEATURE_EXTRACTION" not in tasks:
        said = f"the checkpoint is a {architecture_of(expert.config)}, "
        said += f"the base a {base.architecture}"
        yield error(said, "gate experts and a base of one class", expert=expert.name)
    for key in _SIZES:
        theirs, ours = expert.config.get(key), base.config.get(key)
        if type(theirs) is int and type(ours) is int and theirs != ours:
            said = f"{key} is {shown(f'{theirs}', 20)} in the checkpoint, {ours} in the base"
            yield error(said, "gate it against the base it was fine-tuned from", expert=expert.name)
            return
    own, ours = _forward(expert.config), _forward(base.config)
    for key in own:
        if own[key] != ours.get(key, own[key]):
            said = f"{key} is {shown(f'{own[key]}', 40)} in the checkpoint, {ours[key]} in the base"
            yield error(
                f"{said}: under the base's it is another model", _OTHER_FORWARD, expert=expert.name
            )
            return


def _far_away(expert: Expert, relative_norm: float | None) -> Iterator[Finding]:
    """Two models trained from different starts are about √2 apart."""
    if relative_norm is not None and relative_norm > _FAR:
        said = "the checkpoint is as far from the base as another model: ‖ΔW‖/‖W‖ is "
        said += f"{relative_norm:.2g}, after fine-tuning usually below 0.1"
        yield error(said, _OTHER_FORWARD, expert=expert.name)


def _forward(config: Mapping[str, Any]) -> dict[str, object]:
    """The settings that the forward pass depends on, under one name each; unset ones left out."""
    rope = {**_object(config, "rope_scaling"), **_object(config, "rope_parameters")}
    known: dict[str, object] = {key: config.get(key) for key in _FORWARD}
    known["rope_theta"] = rope.get("rope_theta", config.get("rope_theta"))
    known["rope_factor"] = rope.get("factor", 1.0)
    for key in _ACTIVATIONS:
        if isinstance(named := config.get(key), str):
            known[key] = named.split("_")[0]  # gelu_new, gelu_fast, ... are one but for rounding
    return {k: v for k, v in known.items() if isinstance(v, (int, float, str))}


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}
