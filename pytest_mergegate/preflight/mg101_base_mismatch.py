"""MG101: an expert says it was trained on another base, or another kind of model."""

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.identity import identify, may_be, named_revision
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.references import COMMIT, names_repository
from pytest_mergegate.preflight.heads import architecture_of, task_of
from pytest_mergegate.preflight.told import Findings, error, grouped, warning
from pytest_mergegate.preflight.traces import traces

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
_OTHER_WEIGHTS = (
    "correct base: in the gate file, or, where training really went that far, say so: "
    "`ignore: {MG101: <why>}`"
)
Told = Iterator[tuple[str, str]]
"""Messages, each with the way out."""


def find(pool: Pool) -> Findings:
    """Hold what an expert says of its base, and what its numbers tell, against the gate's."""
    open_questions = []
    for expert in pool.experts:
        if not expert.is_adapter:
            told = _checkpoint(expert, pool.base, pool.statistics[expert.name].relative_norm)
        elif (found := traces(expert, pool)).against:
            told = iter([(found.against, _OTHER_WEIGHTS)])
        else:
            told = _adapter(expert, pool.base)
            open_questions += [] if found.of_the_base else [expert]
        for said, fix in told:
            yield error(said, fix, expert.name)
    yield from grouped(pool, (f for e in open_questions for f in _unproven(e, pool.base)))


def _unproven(expert: Expert, base: Base) -> Findings:
    """A base that is named otherwise, or elsewhere, and that nothing shows to be the gate's."""
    named = expert.base_reference
    if named is None or identify(named, base, expert.path) != "unknown":
        return
    said, revision = shown(named), named_revision(named)
    commit = revision if revision and COMMIT.fullmatch(revision) else "<commit>"
    pin = (
        f"write `base: {said.partition('@')[0]}@{commit}`, which pins it"
        if names_repository(named.partition("@")[0])
        else "have that folder at hand, so that the weights can be compared, or write the base's "
        "repository on the hub into base: and base_model_name_or_path"
    )
    yield warning(
        f"the adapter was trained on {said!r}, the gate's base is {base.reference!r}: nothing "
        "shows that they are the same weights, since a name alone proves nothing",
        f"{pin}; where you know that they are the same, say so: `ignore: {{MG101: <why>}}`",
        expert.name,
    )


def _adapter(expert: Expert, base: Base) -> Told:
    named = expert.base_reference
    if named and identify(named, base, expert.path) == "other":
        yield (
            f"the adapter was trained on {shown(named)!r}, whose weights are at hand and are not "
            f"those of the gate's base {base.reference!r}",
            "correct base: in the gate file",
        )
    # PEFT itself loads whatever revision of the base it is given
    wanted, located = expert.config.get("revision"), base.located
    if isinstance(wanted, str) and wanted and not may_be(located, wanted):
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
            known[key] = named.split("_")[0]  # gelu_new, gelu_fast, ... are one except for rounding
    return {k: v for k, v in known.items() if isinstance(v, (int, float, str))}


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}
