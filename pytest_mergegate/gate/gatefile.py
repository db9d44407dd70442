"""YAML, or the arguments of ``@mergeable``, to a validated gate; every error with its line."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pytest_mergegate.common.errors import GateError, GateFileError, PoolError, did_you_mean
from pytest_mergegate.common.files.documents import in_document
from pytest_mergegate.common.files.places import as_found
from pytest_mergegate.common.files.reading import open_regular
from pytest_mergegate.common.files.repository import glob_inside
from pytest_mergegate.common.files.yaml_files import Location, line_of, read_yaml, where_of
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.budget import Budget
from pytest_mergegate.gate.merge_methods import is_function
from pytest_mergegate.gate.mergekit.file import MergekitFile, other_configuration
from pytest_mergegate.gate.mergekit.gate import gate_of_mergekit
from pytest_mergegate.gate.sections import BUILTIN_METRICS, HARNESS, ExpertSpec
from pytest_mergegate.gate.spec import GateSpec

# what pydantic adds to a location beside the file's own keys, from the third part on
_REPORT = re.compile(rb'\A\s*\[?\s*\{\s*"schema":\s*"(pytest-mergegate/[a-z]+/\d+)"')
_PYDANTIC_PARTS = ("[key]", "literal[", "dict[", "<")
_SHOWN = 5
"""Folders that a message names."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A validated gate and where it came from."""

    spec: GateSpec
    root: Path
    """Relative paths in the gate start here."""
    path: Path | None = None
    """The gate file; None for a gate made of Python arguments."""
    lines: Mapping[Location, int] = field(default_factory=dict)
    """1-based line of every key of the gate file."""
    mergekit: MergekitFile | None = None
    """The mergekit configuration that the gate was made of."""
    experts_pattern: str | None = None
    """The glob that found the experts."""

    @property
    def name(self) -> str:
        """How reports and messages call this gate."""
        return self.path.name if self.path else _name(None)

    def where(self, *location: str | int) -> str:
        """``file:line`` of a key, for error messages."""
        return where_of(_name(self.path), self.lines, location)

    def with_budget(self, budget: Budget) -> Self:
        """The same gate under another budget."""
        return replace(self, spec=self.spec.model_copy(update={"budget": budget}))


def load_gate(path: Path, *, merged: str | None = None) -> Gate:
    """Read and validate a gate file; ``merged`` is a finished merge to be gated in place of the one
    that it names, or those that it makes.

    Raises GateFileError with every problem of the file at once, each with ``file:line``.
    """
    _refuse_reports(path)
    data, lines = read_yaml(path)
    return _validate(data, root=path.parent.resolve(), path=path, lines=lines, merged=merged)


def _refuse_reports(path: Path) -> None:
    """Raise GateFileError for what this package writes as JSON: a report, a plan."""
    try:
        with open_regular(in_document(path)[0], expert=None) as file:
            found = _REPORT.search(file.read(1 << 12))
    except (PoolError, OSError):
        return  # which reading it as a gate says
    if found is None:
        return
    what = f"this is no gate file, but what a gate's run wrote ({found[1].decode()})"
    fix = (
        f"name the gate file; mergegate report {shown(path.name)} or mergegate show reads a report"
    )
    raise GateFileError([GateError(what, where=_name(path), fix=fix)])


def gate_from(
    source: object,
    *,
    root: Path,
    budget: Mapping[str, Any] | None = None,
    merged: str | None = None,
) -> Gate:
    """A gate from whatever names one: a path, a mapping like a gate file, a Gate.

    ``budget`` overrides single limits; ``merged`` is as for ``load_gate``; relative paths start at
    ``root``.
    Raises GateFileError.
    """
    if isinstance(source, Gate):
        gate = source
        if merged is not None and merged != gate.spec.merged:
            asked = _about(source.spec.model_dump(exclude_unset=True), merged)
            gate = replace(source, spec=GateSpec.model_validate(asked))
    elif isinstance(source, (str, Path)):
        gate = load_gate(Path(os.path.normpath(root / source)), merged=merged)
    elif isinstance(source, dict):
        gate = _validate(source, root=root, path=None, lines={}, merged=merged)
    else:
        what = f"a pool cannot be made of {type(source).__name__}"
        fix = "give the path of a gate file, or a mapping like one"
        raise GateFileError([GateError(what, fix=fix)])
    if not budget:
        return gate
    limits = {**gate.spec.budget.model_dump(exclude_none=True), **budget}
    try:
        return gate.with_budget(Budget.model_validate(limits))
    except ValidationError as error:
        located = [{**e, "loc": ("budget", *e["loc"])} for e in error.errors()]
        raise GateFileError([_problem(e, gate.name, {}) for e in located]) from None


def _validate(
    data: object,
    *,
    root: Path,
    path: Path | None,
    lines: Mapping[Location, int],
    merged: str | None,
) -> Gate:
    name = _name(path)
    if not isinstance(data, dict):
        what = "a gate file is a mapping with base, experts and budget"
        fix = "start from the example in README"
        raise GateFileError([GateError(what, where=f"{name}:1", fix=fix)])
    if other := other_configuration(data):
        what, fix = other
        raise GateFileError([GateError(f"this is {what}", where=f"{name}:1", fix=fix)])
    mergekit = None
    if "merge_method" in data and "experts" not in data:
        data, lines, mergekit = gate_of_mergekit(data, lines, name=name, root=root)
    if merged is not None:
        data = _about(data, merged)
        lines = {key: line for key, line in lines.items() if key[:1] != ("merged",)}
    pattern = data.get("experts")
    if isinstance(pattern, str):
        where = where_of(name, lines, ("experts",))
        data = {**data, "experts": _matches_of(pattern, root=root, where=where)}
    try:
        spec = GateSpec.model_validate(data)
    except ValidationError as error:
        located = sorted(error.errors(), key=lambda e: line_of(lines, e["loc"]))
        # entries that are wrong themselves do not make a list too short
        own = [e for e in located if not (e["type"] == "too_short" and e["input"])]
        problems = {str(p): p for p in (_problem(e, name, lines) for e in own)}
        raise GateFileError(list(problems.values())) from None
    return Gate(
        spec=spec,
        root=root,
        path=path,
        lines=lines,
        mergekit=mergekit,
        experts_pattern=pattern if isinstance(pattern, str) else None,
    )


def _about(data: Mapping[str, Any], merged: str) -> dict[str, Any]:
    """What a gate file says, without what is about merges that it makes, for a finished one."""
    kept = {key: said for key, said in data.items() if key not in {"merge", "dtype"}}
    return {**kept, "merged": merged}


def _matches_of(pattern: str, *, root: Path, where: str) -> dict[str, dict[str, str]]:
    """The experts that a glob stands for: the folders that it matches. Raises GateFileError."""

    def refused(what: str, fix: str | None = None) -> GateFileError:
        return GateFileError([GateError(f"experts: {pattern!r} {what}", where=where, fix=fix)])

    try:
        hidden = Path(pattern).name.startswith(".")
        matches = glob_inside(root, pattern, where=where)
        found = [p for p in matches if hidden or not p.name.startswith(".")]
        folders = sorted(path for path in found if path.is_dir())
    except (ValueError, NotImplementedError, OSError) as error:  # absolute patterns, `a**`
        raise refused(f"is no usable glob ({error})") from None
    except PoolError as error:
        raise GateFileError([error]) from None
    if lost := sorted(path.name for path in found if path.is_symlink() and not path.exists()):
        raise refused(
            f"matches a link that leads nowhere, {shown(lost[0])}",
            "fetch what it stands for (a submodule, a mount), or remove it",
        )
    if not folders:
        raise refused(
            f"matches no folder under {root.name}/", "correct the glob, or list the experts by name"
        )
    if twice := sorted(n for n, count in Counter(f.name for f in folders).items() if count > 1):
        raise refused(
            f"matches several folders named {', '.join(map(shown, twice[:_SHOWN]))}",
            "list the experts by name",
        )
    return {folder.name: {"path": as_found(folder.relative_to(root))} for folder in folders}


def _name(path: Path | None) -> str:
    """Of the file, whichever of its documents is the gate."""
    return in_document(path)[0].name if path else "<mergeable>"


def _problem(
    error: ErrorDetails | dict[str, Any], name: str, lines: Mapping[Location, int]
) -> GateError:
    # a key of the file's may look like one of pydantic's parts; beside an unknown one there is none
    sure = len(error["loc"]) if error["type"] == "extra_forbidden" else 2
    named, rest = error["loc"][:sure], error["loc"][sure:]
    location: Location = (*named, *(p for p in rest if not str(p).startswith(_PYDANTIC_PARTS)))
    key = ".".join(str(part) for part in location) or "gate"
    where = where_of(name, lines, location)
    match error["type"]:
        case "extra_forbidden":
            fix = did_you_mean(location[-1], _keys_at(location[:-1]))
            return GateError(f"unknown key {key!r}", where=where, fix=fix)
        case "missing":
            return GateError(f"{key!r} is missing", where=where, fix=f"add {location[-1]}:")
        case "inconsistent":
            at = tuple(error["ctx"]["at"])
            return GateError(str(error["msg"]), where=where_of(name, lines, at))
        case "value_error":
            message = str(error["msg"]).removeprefix("Value error, ")
            return GateError(message if not location else f"{key}: {message}", where=where)
        case _:
            message = str(error["msg"])
            return GateError(
                f"{key}: {message[0].lower()}{message[1:]}, not {error['input']!r}", where=where
            )


def _keys_at(location: Location) -> Iterable[str]:
    """The keys that may stand under ``location``."""
    match location:
        case ():
            model: Any = GateSpec
        case ("experts", *_):
            model = ExpertSpec
        case (section, *_):
            model = GateSpec.model_fields[str(section)].annotation
    return tuple(model.model_fields)


def refuse_code(gate: Gate) -> None:
    """Raise GateFileError with every key by which ``gate`` would run code of its repository."""
    spec, found = gate.spec, list[tuple[str, str, Location]]()
    for name, expert in spec.experts.items():
        if expert.metric not in BUILTIN_METRICS and not expert.metric.startswith(HARNESS):
            fix = f"use {', '.join(BUILTIN_METRICS)}"
            found.append((f"metric {expert.metric}", fix, ("experts", name, "metric")))
        if expert.distance is not None:
            fix = "use compare: exact or rouge_l"
            found.append((f"distance {expert.distance}", fix, ("experts", name, "distance")))
    for index, method in enumerate(spec.merge.methods):
        if is_function(method.method):
            fix = "use a method of mergekit's"
            found.append((f"method {method.method}", fix, ("merge", "methods", index)))
    if spec.lm_eval_tasks is not None:
        fix = "leave it out, and use tasks that the harness brings"
        found.append((f"a task in lm_eval_tasks: {spec.lm_eval_tasks}", fix, ("lm_eval_tasks",)))
    if spec.trust_remote_code:
        fix = "use a base of an architecture that transformers knows"
        found.append(("the base, with trust_remote_code", fix, ("trust_remote_code",)))
    said = "is code of the repository, and this run allows none"
    instead = "or leave out the option no-code (ini mergegate_no_code)"
    if found:
        raise GateFileError(
            [
                GateError(f"{what} {said}", where=gate.where(*at), fix=f"{fix}, {instead}")
                for what, fix, at in found
            ]
        )
