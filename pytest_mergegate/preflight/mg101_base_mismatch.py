"""MG101: an expert says it was trained on another base, or another kind of model."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.references import Located, last_part, unquantised
from pytest_mergegate.preflight.heads import architecture_of, task_of
from pytest_mergegate.preflight.told import Findings, error

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
Told = Iterator[tuple[str, str]]
"""Messages, each with the way out."""


def find(pool: Pool) -> Findings:
    """Hold what an expert says of its base against the gate's."""
    for expert in pool.experts:
        if expert.is_adapter:
            told = _adapter(expert, pool.base)
        else:
            told = _checkpoint(expert, pool.base, pool.statistics[expert.name].relative_norm)
        for said, fix in told:
            yield error(said, fix, expert.name)


def _adapter(expert: Expert, base: Base) -> Told:
    trained_on = expert.base_reference
    # the last part of the names: folders move, but a model keeps its name
    if trained_on and not {(name := last_part(trained_on)), unquantised(name)} & base.names:
        yield (
            f"the adapter was trained on {shown(trained_on)!r}, the gate's base is "
            f"{base.reference!r}",
            "correct base: in the gate file, or, where both are the same weights under two names, "
            "say so: `ignore: {MG101: <why>}`",
        )
    # PEFT itself loads whatever revision of the base it is given
    wanted, located = expert.config.get("revision"), base.located
    if isinstance(wanted, str) and wanted and not _may_be(located, wanted):
        yield (
            f"the adapter was trained on revision {shown(wanted)!r} of its base, "
            f"the gate's is {located.revision or located.commit or 'main'!r}",
            f"write `base: {located.repository}@{shown(wanted)}`, or, where both are the same "
            "weights, say so: `ignore: {MG101: <why>}`",
        )
    # a head of another kind is not there to be adapted
    task, offered = expert.config.get("task_type"), task_of(base.config)
    if isinstance(task, str) and offered and task not in ("", offered, "FEATURE_EXTRACTION"):
        yield (
            f"the adapter was trained for task_type={shown(task)!r}, "
            f"the base is a {base.architecture} ({offered})",
            "gate against the class of model that it was trained on, saved with save_pretrained",
        )


def _may_be(located: Located, wanted: str) -> bool:
    """Whether a revision may be the one that lies here."""
    if located.repository is None:
        return True
    if _COMMIT.fullmatch(wanted):
        return located.commit is None or located.commit.startswith(wanted)
    # a branch may well point to the commit
    return wanted == (located.revision or "main") or located.pinned


def _checkpoint(expert: Expert, base: Base, relative_norm: float | None) -> Told:
    yield from _other_class(expert, base)
    # two models trained from different starts are about √2 apart
    if relative_norm is not None and relative_norm > _FAR:
        said = "the checkpoint is as far from the base as another model: ‖ΔW‖/‖W‖ is "
        yield f"{said}{relative_norm:.2g}, after fine-tuning usually below 0.1", _OTHER_FORWARD


def _other_class(expert: Expert, base: Base) -> Told:
    """Another kind of model, or its first setting that is another; one reason is enough."""
    own = expert.config.get("model_type")
    if isinstance(own, str) and base.model_type and own != base.model_type:
        said = f"the checkpoint is a {shown(own)!r} model, the base a {base.model_type!r} model"
        yield said, "leave it out, or gate it against its own base"
        return
    tasks = task_of(expert.config), task_of(base.config)
    if tasks[0] != tasks[1] and None not in tasks and "FEATURE_EXTRACTION" not in tasks:
        said = f"the checkpoint is a {architecture_of(expert.config)}, "
        yield f"{said}the base a {base.architecture}", "gate experts and a base of one class"
    for key in _SIZES:
        theirs, ours = expert.config.get(key), base.config.get(key)
        if type(theirs) is int and type(ours) is int and theirs != ours:
            said = f"{key} is {shown(f'{theirs}', 20)} in the checkpoint, {ours} in the base"
            yield said, "gate it against the base it was fine-tuned from"
            return
    settings, others = _forward(expert.config), _forward(base.config)
    odd = next((k for k, v in settings.items() if v != others.get(k, v)), None)
    if odd is not None:
        said = f"{odd} is {shown(f'{settings[odd]}', 40)} in the checkpoint, {others[odd]} in the "
        yield f"{said}base: under the base's it is another model", _OTHER_FORWARD


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
