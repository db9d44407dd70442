"""A mergekit configuration as a gate file: its models as experts, its settings as the merge."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import GateFileError, did_you_mean
from pytest_mergegate.common.files.yaml_files import Location
from pytest_mergegate.gate.merge_methods import is_function
from pytest_mergegate.gate.mergekit.file import (
    NAME,
    MergekitFile,
    ModelReference,
    Parsed,
    Problems,
    parse,
    plain,
)
from pytest_mergegate.gate.mergekit.paths import found_at, is_folder, same_model
from pytest_mergegate.gate.sections import POOL, ExpertSpec
from pytest_mergegate.gate.spec import GateSpec

_SECTION = "mergegate"
_MERGE_KEYS = ("select", "seed", "route")


def gate_of_mergekit(
    data: Mapping[str, Any], lines: Mapping[Location, int], *, name: str, root: Path
) -> tuple[dict[str, Any], dict[Location, int], MergekitFile]:
    """The gate file that a mergekit configuration stands for, with its lines.

    Its key ``mergegate:``, which mergekit passes over, may hold what a gate file says beside the
    pool and the merge. Raises GateFileError with every problem.
    """
    problems = Problems(name, lines)
    parsed = parse(data, root, problems)
    if parsed is not None and is_function(parsed.method):
        fix = "write a gate file, with merge: {methods: [package.module:function]}"
        what = f"{parsed.method} is no method of mergekit's"
        problems.add(what, ("merge_method",), fix)
    if parsed is None or problems.found:
        raise GateFileError(problems.found)
    reading = _Reading(parsed, root, problems, lines)
    gate = reading.gate()
    if problems.found:
        raise GateFileError(problems.found)
    return gate, reading.gate_lines(gate), reading.file


class _Reading:
    """One file on its way to a gate."""

    def __init__(
        self, parsed: Parsed, root: Path, problems: Problems, lines: Mapping[Location, int]
    ) -> None:
        self._parsed, self._root, self._problems, self._lines = parsed, root, problems, lines
        section = parsed.data.get(_SECTION) or {}
        said = f"mergegate must be a mapping, not {section!r}"
        fix = "write keys of a gate file under it"
        self._section = self._mapping(section, said, (_SECTION,), fix, GateSpec.model_fields)
        self._base = self._find_base()
        self._experts = _unique_names(self._references(), root)
        self._names = {reference.text: name for name, reference in self._experts.items()}
        self._form = plain(parsed, self._names)

    @property
    def file(self) -> MergekitFile:
        """What is kept beside the gate."""
        known: dict[str, str | None] = {**dict.fromkeys(self._base_texts()), **self._names}
        if (start := self._parsed.base) is not None and start.text not in known:
            alike = (n for n, r in self._experts.items() if self._same(r, start))
            known[start.text] = next(alike)
        apart = (_SECTION, NAME)
        data = {key: value for key, value in self._parsed.data.items() if key not in apart}
        return MergekitFile(
            config=_renamed(data, known),
            written={name: reference.text for name, reference in self._experts.items()},
            other_bases=dict(self._other_bases()),
            why_official=self._form if isinstance(self._form, str) else None,
        )

    def gate(self) -> dict[str, Any]:
        """As a gate file would say it."""
        section = {k: v for k, v in self._section.items() if k not in {"experts", "merge", "base"}}
        gate = {"experts": self._expert_entries(), "merge": self._merge(), **section}
        if self._base is not None:
            gate["base"] = self._base
        data = self._parsed.data
        if "dtype" in data and "dtype" not in gate:
            gate["dtype"] = data["dtype"]
        self._check_tokenizer()
        traits, count = self._parsed.traits, len(self._experts)
        if traits.stand_in and traits.most and count > traits.most and "models" in data:
            what = f"{traits.name} merges exactly two models, the file has {count}"
            fix = f"write merge_method: karcher, or {traits.stand_in} without base_model"
            self._problems.add(what, ("merge_method",), fix)
        return gate

    def gate_lines(self, gate: Mapping[str, Any]) -> dict[Location, int]:
        """1-based lines of the gate's keys in the mergekit file."""
        lines = {at[1:]: line for at, line in self._lines.items() if at[:1] == (_SECTION,)}
        lines |= {(): 1, ("experts",): self._line(("models",), ("slices",))}
        for name, reference in self._experts.items():
            lines.setdefault(("experts", name), self._line(reference.at))
            lines[("experts", name, "path")] = self._line(reference.at)
        for key in ("methods", "weights"):
            lines[("merge", key)] = self._line(("merge_method",))
        lines.setdefault(("merge",), self._line(("merge_method",)))
        for key, own in (("base", "base_model"), ("dtype", "dtype")):
            if (key,) not in lines and (own,) in self._lines:
                lines[(key,)] = self._lines[(own,)]
        return lines

    def _line(self, *places: Location) -> int:
        return next((self._lines[at] for at in places if at in self._lines), 1)

    def _mapping(
        self, value: Any, said: str, at: Location, fix: str, known: Iterable[str] | None
    ) -> Mapping[str, Any]:
        """A part of the section, with none but ``known`` keys; empty where it is no mapping."""
        if not isinstance(value, dict):
            self._problems.add(said, at, fix)
            return {}
        if known is not None:
            self._problems.check_keys(value, tuple(known), at)
        return value

    def _find_base(self) -> str | None:
        parsed, own = self._parsed, self._section.get("base")
        prefixes = {r.base: r for r in parsed.models if r.base is not None}
        found = next(iter(prefixes), None)
        if parsed.base is not None and parsed.traits.base != "expert":
            if parsed.base.base is not None:
                fix = "merge the adapter into the base, and name the folder"
                self._problems.add("base_model is an adapter", parsed.base.at, fix)
            found = parsed.base.path
        if found is not None and own is not None:
            what = f"the base is {found} already, as mergekit has it"
            self._problems.add(what, (_SECTION, "base"), "leave mergegate.base out")
        return found or own

    def _other_bases(self) -> Iterator[tuple[str, str]]:
        """Whether these are the same weights by another name, preflight looks (MG123)."""
        for name, reference in self._experts.items():
            prefix = reference.base
            if prefix is None or not isinstance(self._base, str):
                continue
            if not same_model(prefix, self._base, self._root):
                place = found_at(self._root, prefix)
                yield name, prefix if place is None else str(place)

    def _references(self) -> list[ModelReference]:
        """What is an expert: every model but the base."""
        parsed = self._parsed
        models = list(parsed.models)
        if parsed.base is not None and parsed.traits.base == "expert":
            # the walk starts at base_model, wherever the list has it
            rest = [m for m in models if not self._same(m, parsed.base)]
            models = [next((m for m in models if self._same(m, parsed.base)), parsed.base), *rest]
        return [model for model in models if not self._is_base(model)]

    def _same(self, one: ModelReference, other: ModelReference) -> bool:
        return one.base == other.base and same_model(one.path, other.path, self._root)

    def _is_base(self, model: ModelReference) -> bool:
        base = self._base  # of whatever type the section has it
        return (
            isinstance(base, str)
            and model.base is None
            and same_model(model.path, base, self._root)
        )

    def _base_texts(self) -> list[str]:
        models = [m.text for m in self._parsed.models if self._is_base(m)]
        own = self._parsed.base
        return models + ([own.text] if own is not None and self._is_base(own) else [])

    def _expert_entries(self) -> dict[str, Any]:
        given = self._section.get("experts") or {}
        said = f"mergegate.experts must be a mapping by name, not {given!r}"
        at, fix = (_SECTION, "experts"), "write NAME: {examples: ...}"
        given = self._mapping(given, said, at, fix, None)
        for name in given:
            if name not in self._experts:
                fix = did_you_mean(name, self._experts, "known", cutoff=0.6)
                what = f"no model of the file is called {name!r}"
                self._problems.add(what, (*at, str(name)), fix)
        return {name: self._entry(name, given.get(name) or {}) for name in self._experts}

    def _entry(self, name: str, given: Any) -> dict[str, Any]:
        at = (_SECTION, "experts", name)
        own = [key for key in ExpertSpec.model_fields if key != "path"]
        given = self._mapping(given, f"{given!r} is no mapping", at, "write {examples: ...}", own)
        entry = {"path": self._experts[name].path, **given}
        if "examples" not in given and not self._section.get("examples"):
            found = conventional_examples(name, self._experts[name].path, self._root)
            entry |= {} if found is None else {"examples": found}
        return entry

    def _merge(self) -> dict[str, Any]:
        given, at = self._section.get("merge") or {}, (_SECTION, "merge")
        said = f"mergegate.merge must be a mapping, not {given!r}"
        fix = "the method is merge_method; write {seed: 0}, say"
        given = self._mapping(given, said, at, fix, _MERGE_KEYS)
        if given.get("route") == "peft":
            what = "a mergekit configuration is merged by mergekit, not by PEFT"
            self._problems.add(what, (*at, "route"), "leave route out, or write a gate file")
            given = {key: value for key, value in given.items() if key != "route"}
        if not isinstance(self._form, str):
            return {**given, **self._form}
        if given.get("route") == "in_place":
            what = f"this configuration cannot be merged in place: {self._form}"
            self._problems.add(what, (*at, "route"), "leave route out")
        return {**given, "methods": [self._parsed.method], "route": "official"}

    def _check_tokenizer(self) -> None:
        """The tokenizer must come from a model of the pool: nothing else is at hand."""
        data = self._parsed.data
        tokenizer = data.get("tokenizer")
        source = tokenizer.get("source") if isinstance(tokenizer, dict) else None
        known = ["union", "base", *self._base_texts(), *self._names]
        for value, at in (
            (data.get("tokenizer_source"), ("tokenizer_source",)),
            (source, ("tokenizer", "source")),
        ):
            if value is not None and value not in known:
                what = f"{value!r} is neither union, nor base, nor a model of the file"
                self._problems.add(what, at, "name a model that is merged, or leave it out")


def _renamed(part: Any, known: Mapping[str, str | None]) -> Any:
    """``part`` with the models named by expert, so that nothing hangs on where they lie."""
    if isinstance(part, dict):
        return {
            key: {"expert": known[value]}
            if key in _NAMING and isinstance(value, str) and value in known
            else _renamed(value, known)
            for key, value in part.items()
        }
    if isinstance(part, list):
        return [_renamed(value, known) for value in part]
    return part


_NAMING = ("model", "base_model", "tokenizer_source", "source")


def _unique_names(references: list[ModelReference], root: Path) -> dict[str, ModelReference]:
    """Experts by folder name, with the folder above where two are alike."""
    folders = [_folder_names(reference, root) for reference in references]
    plain_names = [folder for folder, _ in folders]
    found: dict[str, ModelReference] = {}
    for reference, (folder, above) in zip(references, folders, strict=True):
        wanted = f"{above}-{folder}" if plain_names.count(folder) > 1 and above else folder
        wanted = f"{wanted}-expert" if wanted == POOL else wanted
        unique, number = wanted, 2
        while unique in found:
            unique, number = f"{wanted}-{number}", number + 1
        found[unique] = reference
    return found


def _folder_names(reference: ModelReference, root: Path) -> tuple[str, str]:
    """The names of the folder and of the one above it, without a revision."""
    path = Path(reference.path)
    name = path.name if is_folder(root, reference.path) else path.name.partition("@")[0]
    return name or "expert", path.parent.name


def usual_examples(name: str, expert: str) -> tuple[str, ...]:
    """Where an expert's examples are looked for when nobody says where."""
    return f"data/{name}.jsonl", f"examples/{name}.jsonl", f"{expert}/examples.jsonl"


def conventional_examples(name: str, expert: str, root: Path) -> str | None:
    """Where an expert's examples lie when nobody says where."""
    for place in usual_examples(name, expert):
        found = found_at(root, place)
        if found is not None and found.is_file():
            return place
    return None
