"""What a mergekit configuration says, as far as gates care: its models, by place and by role, and
whether it is a gate's own method and weights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import GateError, did_you_mean
from pytest_mergegate.common.files.yaml_files import Location, where_of
from pytest_mergegate.gate.merge_methods import MethodTraits, traits_of
from pytest_mergegate.gate.mergekit.paths import from_either, is_folder

NAME = "name"
"""What mergekit-multi calls one of several documents by; mergekit itself knows no such key."""
_SCALES = "it scales what no expert changes, too"
_KEYS = (
    *("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "mergegate", NAME),
)
_MODEL_KEYS = ("model", "parameters")
_SLICE_KEYS = ("sources", "base_model", "parameters", "residual_weight")
_SOURCE_KEYS = ("model", "layer_range", "parameters")


@dataclass(frozen=True, kw_only=True)
class MergekitFile:
    """A mergekit configuration beside the gate that was made of it."""

    config: Mapping[str, Any]
    """As it stands, each model written as ``{"expert": NAME}``, NAME None for the base."""
    written: Mapping[str, str]
    """Each expert's model as the file has it, such as ``base+adapter``."""
    other_bases: Mapping[str, str]
    """By expert, what stands before the ``+`` where it is not the path of the gate's base: where
    that lies on this machine, else as written."""
    why_official: str | None
    """Why mergekit must run it itself; None where it is a gate's own method and weights."""


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """A model as the file names it, and where."""

    text: str
    at: Location
    base: str | None
    """What stands before the ``+`` of an adapter."""
    path: str
    """The adapter, or the whole model."""


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A file whose shape is sound."""

    data: Mapping[str, Any]
    method: str
    base: ModelReference | None
    models: tuple[ModelReference, ...]
    """In the order of the file, each once."""

    @property
    def traits(self) -> MethodTraits:
        """The method's row of the table."""
        return traits_of(self.method)


@dataclass
class Problems:
    """All that is wrong with a file, each with its line."""

    name: str
    lines: Mapping[Location, int]
    found: list[GateError] = field(default_factory=list)

    def add(self, what: str, at: Location, fix: str | None = None) -> None:
        """Note a problem of the key ``at``."""
        self.found.append(GateError(what, where=where_of(self.name, self.lines, at), fix=fix))

    def check_keys(self, part: Mapping[Any, Any], known: tuple[str, ...], at: Location) -> None:
        """Note the keys of ``part`` that mergekit would pass over in silence."""
        for key in part:
            if key not in known:
                label = ".".join(map(str, (*at, key)))
                self.add(f"unknown key {label!r}", (*at, str(key)), did_you_mean(key, known))


def parse(data: Mapping[str, Any], root: Path, problems: Problems) -> Parsed | None:
    """Read the models out of a configuration; None where its shape is not sound."""
    if "modules" in data:
        fix = "gate the merge of the language model alone, with models:"
        problems.add("modules: is not supported", ("modules",), fix)
        return None
    problems.check_keys(data, _KEYS, ())
    method = data.get("merge_method")
    if not isinstance(method, str) or not method:
        fix = "write the method's name, such as linear or ties"
        problems.add(f"merge_method must be a name, not {method!r}", ("merge_method",), fix)
    if ("models" in data) == ("slices" in data):
        fix = "list what is merged under models:"
        problems.add("exactly one of models and slices must be there", ("merge_method",), fix)
    _check_parameters(data, (), problems)
    named = list(_named(data, problems))
    base = _reference(data.get("base_model"), ("base_model",), root, problems)
    if problems.found:
        return None
    references = [_reference(value, at, root, problems) for value, at in named]
    distinct = {r.text: r for r in reversed(references) if r is not None}
    ordered = sorted(distinct.values(), key=lambda r: [x for x in r.at if isinstance(x, int)])
    texts = [r.text for r in references if r is not None]
    if "models" in data and (twice := sorted({t for t in texts if texts.count(t) > 1})):
        problems.add(f"models lists {twice[0]} twice", ("models",), "keep one of the two")
    if problems.found:
        return None
    return Parsed(data=data, method=str(method), base=base, models=tuple(ordered))


def other_configuration(data: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a file for another command of mergekit's is, and the way out; None for any other."""
    if "gate_mode" in data or isinstance(data.get("experts"), list):
        return (
            "a mergekit-moe configuration: it makes a mixture of experts, whose architecture is "
            "another than its base's",
            "make it, and gate the artefact with merged:, or gate a merge of the same models",
        )
    if "genome" in data:
        return (
            "a configuration of mergekit-evolve, which searches for a merge",
            "gate the mergekit configuration that it finds (best_config.yaml)",
        )
    return None


def sources(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Every entry of a configuration that names a model to merge."""
    listed = [*(config.get("models") or ())]
    for part in config.get("slices") or ():
        listed += part["sources"]
    return listed


def _named(data: Mapping[str, Any], problems: Problems) -> Iterator[tuple[Any, Location]]:
    """Every ``model:`` and its place."""
    for index, entry in _entries(data, "models", (), _MODEL_KEYS, problems):
        yield entry.get("model"), ("models", index, "model")
    for index, entry in _entries(data, "slices", (), _SLICE_KEYS, problems):
        at: Location = ("slices", index)
        if entry.get("base_model") is not None and entry["base_model"] != data.get("base_model"):
            fix = "give all slices the base_model of the whole file"
            problems.add("a slice has a base_model of its own", (*at, "base_model"), fix)
        for number, source in _entries(entry, "sources", at, _SOURCE_KEYS, problems):
            place = (*at, "sources", number)
            yield source.get("model"), (*place, "model")
            if not _is_range(source.get("layer_range")):
                said = source.get("layer_range")
                fix = "write layer_range: [0, 16] for the first 16 layers"
                problems.add(f"layer_range must be [first, end], not {said!r}", place, fix)


def _check_parameters(part: Mapping[str, Any], at: Location, problems: Problems) -> None:
    given = part.get("parameters")
    if given is not None and not isinstance(given, dict):
        fix = "write {weight: 0.5}, say"
        problems.add(f"parameters must be a mapping, not {given!r}", (*at, "parameters"), fix)


def _is_range(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(isinstance(x, int) and not isinstance(x, bool) for x in value)


def _entries(
    part: Mapping[str, Any], key: str, at: Location, known: tuple[str, ...], problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    listed = part.get(key, [])
    if not isinstance(listed, list) or (key in part and not listed):
        fix = f"write one {known[0]}: after another, each after a dash"
        problems.add(f"{key} must be a list, not {listed!r}", (*at, key), fix)
        return
    for index, entry in enumerate(listed):
        if isinstance(entry, dict):
            problems.check_keys(entry, known, (*at, key, index))
            _check_parameters(entry, (*at, key, index), problems)
            yield index, entry
        else:
            what = f"{key}: {entry!r} is no mapping with {known[0]}:"
            problems.add(what, (*at, key, index), f"write {known[0]}: in front")


def _reference(value: Any, at: Location, root: Path, problems: Problems) -> ModelReference | None:
    if value is None and at == ("base_model",):
        return None
    if not isinstance(value, str) or not value.strip():
        fix = "write base+adapter, or the folder or repository of a whole model"
        problems.add(f"a model must be a path or org/name, not {value!r}", at, fix)
        return None
    base, path = _split(value, root)
    base = None if base is None else from_either(root, base)
    return ModelReference(text=value, at=at, base=base, path=from_either(root, path))


def _split(text: str, root: Path) -> tuple[str | None, str]:
    """Base and adapter of ``base+adapter``; a folder whose own name holds a '+' stays whole."""
    if "+" not in text or is_folder(root, text):
        return None, text
    places = [k for k, letter in enumerate(text) if letter == "+"]
    # where several splits are possible, the one of which both halves are there
    roots = (root, Path.cwd())
    best = [
        k
        for k in places
        for at in roots
        if is_folder(at, text[:k]) and is_folder(at, text[k + 1 :])
    ]
    at = (best or places)[0]
    return text[:at], text[at + 1 :]


def plain(parsed: Parsed, experts: Mapping[str, str]) -> dict[str, Any] | str:
    """The configuration's method and weights as a gate file has them, or why it cannot have them.

    ``experts`` maps each expert's model, as written, to its name.
    """
    if why := _another_shape(parsed, experts):
        return why
    shared: dict[str, Any] = dict(parsed.data.get("parameters") or {})
    by_expert = {
        experts[entry["model"]]: {**shared, **(entry.get("parameters") or {})}
        for entry in parsed.data["models"]
        if entry["model"] in experts
    }
    values = dict(shared)
    for name in dict.fromkeys(key for own in by_expert.values() for key in own):
        given = [own.get(name) for own in by_expert.values()]
        if not all(value is None or isinstance(value, (bool, int, float)) for value in given):
            return f"{name} is no single number"
        if name != "weight" and len(set(given)) > 1:
            return f"{name} differs from model to model"
        values[name] = given[0]
    values.pop("weight", None)
    weights = [own.get("weight") for own in by_expert.values()]
    return _weighed(parsed, values, dict(zip(by_expert, weights, strict=True)))


def _another_shape(parsed: Parsed, experts: Mapping[str, str]) -> str | None:
    data = parsed.data
    if "slices" in data:
        return "it has slices"
    if data.get("tokenizer_source") or data.get("tokenizer"):
        return "it builds a tokenizer"
    if data.get("out_dtype") not in (None, data.get("dtype")):
        return "out_dtype is another than dtype"
    listed = [entry["model"] for entry in data["models"]]
    role = parsed.traits.base
    if role in {"averaged", "optional"} and (parsed.base or not set(listed) <= set(experts)):
        how = "averages the base in" if role == "averaged" else "is given a base"
        return f"{parsed.method} {how}"
    if not set(experts) <= set(listed):
        return "its base_model is merged without being listed"
    if role in {"required", "expert"} and parsed.base is None:
        return "it has no base_model"
    return None


def _weighed(
    parsed: Parsed, parameters: dict[str, Any], weights: dict[str, Any]
) -> dict[str, Any] | str:
    given = [weight for weight in weights.values() if weight is not None]
    traits = parsed.traits
    merge: dict[str, Any] = {"methods": [{"method": parsed.method, **parameters}]}
    if not traits.takes_weights:
        if given:
            return f"{parsed.method} takes no weights"
        if traits.share_parameter and traits.share_parameter not in parameters:
            return f"{traits.share_parameter} is missing"
        if traits.scales_base and parameters.get("scale") not in (None, 1):
            return _SCALES
        return merge
    if len(given) < len(weights):
        return "a model has no weight"
    weights = {name: float(weight) for name, weight in weights.items()}
    total = sum(weights.values())
    if traits.scales_base and not parameters.get("normalize", True) and not math.isclose(total, 1):
        return _SCALES
    return merge | {"weights": weights}
