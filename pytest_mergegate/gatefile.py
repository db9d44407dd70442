"""YAML, or the arguments of ``@mergeable``, to a validated gate; every error with its line."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError

from pytest_mergegate.errors import GateError, GateFileError
from pytest_mergegate.mergekit_gate import gate_of_mergekit
from pytest_mergegate.spec import (
    Budget,
    CertificateSpec,
    ConflictSpec,
    ExpertSpec,
    GateSpec,
    MergeSpec,
    ProbesSpec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from pytest_mergegate.mergekit_file import MergekitFile

Location = tuple[str | int, ...]
# what pydantic adds to a location beside the file's own keys
_PYDANTIC_PARTS = ("[key]", "literal[", "dict[", "<")
_SECTIONS: dict[str, type[BaseModel]] = {
    "probes": ProbesSpec,
    "conflict": ConflictSpec,
    "certificate": CertificateSpec,
    "budget": Budget,
    "merge": MergeSpec,
}


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
        return self.path.name if self.path else "<mergeable>"

    def where(self, *location: str | int) -> str:
        """``file:line`` of a key, for error messages."""
        return _where(self.name, self.lines, location)

    def with_budget(self, budget: Budget) -> Gate:
        """The same gate under another budget."""
        return replace(self, spec=self.spec.model_copy(update={"budget": budget}))


def load_gate(path: Path) -> Gate:
    """Read and validate a gate file.

    Raises GateFileError with every problem of the file at once, each with ``file:line``.
    """
    data, lines = _read_yaml(path)
    return _validate(data, name=path.name, root=path.parent.resolve(), path=path, lines=lines)


def gate_from(source: object, *, root: Path, budget: Mapping[str, Any] | None = None) -> Gate:
    """A gate from whatever names one: a path, a mapping like a gate file, a Gate.

    ``budget`` overrides single limits; relative paths start at ``root``.
    Raises GateFileError.
    """
    if isinstance(source, Gate):
        gate = source
    elif isinstance(source, (str, Path)):
        gate = load_gate(Path(os.path.normpath(root / source)))
    elif isinstance(source, dict):
        gate = _validate(source, name="<mergeable>", root=root, path=None, lines={})
    else:
        raise GateFileError(
            [
                GateError(
                    f"a pool cannot be made of {type(source).__name__}",
                    fix="give the path of a gate file, or a mapping like one",
                )
            ]
        )
    if not budget:
        return gate
    merged = {**gate.spec.budget.model_dump(exclude_none=True), **budget}
    try:
        return gate.with_budget(Budget.model_validate(merged))
    except ValidationError as error:
        located = [{**e, "loc": ("budget", *e["loc"])} for e in error.errors()]
        raise GateFileError([_problem(e, gate.name, {}) for e in located]) from None


def _validate(
    data: object, *, name: str, root: Path, path: Path | None, lines: Mapping[Location, int]
) -> Gate:
    if not isinstance(data, dict):
        raise GateFileError(
            [
                GateError(
                    "a gate file is a mapping with base, experts and budget",
                    where=f"{name}:1",
                    fix="start from the example in README",
                )
            ]
        )
    mergekit = None
    if "merge_method" in data and "experts" not in data:
        data, lines, mergekit = gate_of_mergekit(data, lines, name=name, root=root)
    pattern = data.get("experts")
    data = _expand_glob(data, name=name, root=root, lines=lines)
    try:
        spec = GateSpec.model_validate(data)
    except ValidationError as error:
        located = sorted(error.errors(), key=lambda e: _line(lines, e["loc"]))
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


def _expand_glob(
    data: dict[Any, Any], *, name: str, root: Path, lines: Mapping[Location, int]
) -> dict[Any, Any]:
    """The gate with the folders that ``experts`` matches, where that is a glob."""
    pattern = data.get("experts")
    if not isinstance(pattern, str):
        return data
    where = _where(name, lines, ("experts",))

    def refused(what: str, fix: str | None = None) -> GateFileError:
        return GateFileError([GateError(f"experts: {pattern!r} {what}", where=where, fix=fix)])

    try:
        hidden = Path(pattern).name.startswith(".")
        found = [p for p in root.glob(pattern) if hidden or not p.name.startswith(".")]
        folders = sorted(path for path in found if path.is_dir())
    except (ValueError, NotImplementedError) as error:  # absolute patterns, `a**`
        raise refused(f"is no usable glob ({error})") from None
    if lost := sorted(path.name for path in found if path.is_symlink() and not path.exists()):
        raise refused(
            f"matches a link that leads nowhere, {lost[0]}",
            "fetch what it stands for (a submodule, a mount), or remove it",
        )
    if not folders:
        raise refused(
            f"matches no folder under {root.name}/", "correct the glob, or list the experts by name"
        )
    names = [folder.name for folder in folders]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise refused(
            f"matches several folders named {', '.join(twice)}", "list the experts by name"
        )
    return {**data, "experts": {f.name: {"path": str(f.relative_to(root))} for f in folders}}


def _line(lines: Mapping[Location, int], location: Location) -> int:
    """The line of the innermost known key on the way to ``location``; 0 where none is known."""
    known = (lines.get(location[:length]) for length in range(len(location), -1, -1))
    return next((line for line in known if line is not None), 0)


def _where(name: str, lines: Mapping[Location, int], location: Location) -> str:
    line = _line(lines, location)
    return f"{name}:{line}" if line else name


def _problem(
    error: ErrorDetails | dict[str, Any], name: str, lines: Mapping[Location, int]
) -> GateError:
    location: Location = tuple(p for p in error["loc"] if not str(p).startswith(_PYDANTIC_PARTS))
    key = ".".join(str(part) for part in location) or "gate"
    where = _where(name, lines, location)
    match error["type"]:
        case "extra_forbidden":
            fix = _did_you_mean(str(location[-1]), location[:-1])
            return GateError(f"unknown key {key!r}", where=where, fix=fix)
        case "missing":
            return GateError(f"{key!r} is missing", where=where, fix=f"add {location[-1]}:")
        case "inconsistent":
            at = tuple(error["ctx"]["at"])
            return GateError(str(error["msg"]), where=_where(name, lines, at))
        case "value_error":
            message = str(error["msg"]).removeprefix("Value error, ")
            return GateError(message if not location else f"{key}: {message}", where=where)
        case _:
            message = str(error["msg"])
            return GateError(
                f"{key}: {message[0].lower()}{message[1:]}, not {error['input']!r}", where=where
            )


def _did_you_mean(key: str, parent: Location) -> str:
    if not parent:
        model: type[BaseModel] = GateSpec
    elif parent[0] == "experts":
        model = ExpertSpec
    else:
        model = _SECTIONS.get(str(parent[0]), GateSpec)
    known = list(model.model_fields)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    """Safe YAML whose every error says on which line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as the 45th of a month
            raise ConstructorError(None, None, str(error), node.start_mark) from None


def _read_yaml(path: Path) -> tuple[object, dict[Location, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        problem = GateError(
            f"the gate file cannot be read ({error.strerror})",
            where=str(path),
            fix="check the path",
        )
        raise GateFileError([problem]) from None
    except UnicodeDecodeError:
        raise GateFileError([GateError("the gate file is not UTF-8", where=path.name)]) from None
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise GateFileError([GateError(f"not valid YAML: {reason}", where=path.name)]) from None
    try:
        node = loader.get_single_node()
        lines: dict[Location, int] = {(): 1}
        problems: list[GateError] = []
        if node is not None:
            _note_lines(node, (), lines, problems, path.name)
        if problems:
            raise GateFileError(problems)
        return (loader.construct_document(node) if node is not None else None), lines
    except (yaml.MarkedYAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name}:{mark.line + 1}" if mark else path.name
        what = getattr(error, "problem", None) or "nested too deeply"
        kind = "not allowed here" if isinstance(error, ConstructorError) else "not valid YAML"
        raise GateFileError([GateError(f"{kind}: {what}", where=where)]) from None
    finally:
        loader.dispose()


def _note_lines(
    node: yaml.Node,
    location: Location,
    lines: dict[Location, int],
    problems: list[GateError],
    name: str,
) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            label = str(key.value)
            if label in seen:
                problems.append(
                    GateError(
                        f"{label!r} is given twice (first on line {seen[label]})",
                        where=f"{name}:{line}",
                        fix="keep one of the two",
                    )
                )
            seen[label] = line
            lines[(*location, label)] = line
            _note_lines(value, (*location, label), lines, problems, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*location, index)] = value.start_mark.line + 1
            _note_lines(value, (*location, index), lines, problems, name)
