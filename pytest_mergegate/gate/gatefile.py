"""YAML, or the arguments of ``@mergeable``, to a validated gate; every error with its line."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from pytest_mergegate.common.errors import GateError, GateFileError, PoolError
from pytest_mergegate.common.files.containment import glob_inside
from pytest_mergegate.common.files.places import as_found
from pytest_mergegate.common.files.yaml_files import Location, read_yaml
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.budget_section import Budget
from pytest_mergegate.gate.merge_section import MergeSpec
from pytest_mergegate.gate.mergekit.gate import gate_of_mergekit
from pytest_mergegate.gate.sections import CertificateSpec, ConflictSpec, ExpertSpec, ProbesSpec
from pytest_mergegate.gate.spec import GateSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from pytest_mergegate.gate.mergekit.file import MergekitFile

# what pydantic adds to a location beside the file's own keys
_PYDANTIC_PARTS = ("[key]", "literal[", "dict[", "<")
_SHOWN = 5
"""Folders that a message names."""
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
    data, lines = read_yaml(path)
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
    entries = {f.name: {"path": as_found(f.relative_to(root))} for f in folders}
    return {**data, "experts": entries}


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
