"""Gate files that were found, not named: which of them are the team's, and which lie in data.

A gate file may run code, so one in a folder of strangers' is refused: in, or below,

* a folder that holds an adapter or a checkpoint, except for the root of the repository and the
  folder where one started: a repository may well be that of a single model;
* an expert's folder, the folder around it, or the folder of its examples, as another gate file of
  the repository names them (a folder that holds the naming gate file itself is the team's).

Who names a gate file on the command line has decided to run it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from glob import escape
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from pytest_mergegate.common.errors import GateError, GateFileError, PoolError
from pytest_mergegate.common.files.places import is_apart, is_gate_name, model_file_in, place_of
from pytest_mergegate.common.files.repository import check_way_inside, top_of
from pytest_mergegate.common.files.yaml_files import documents_of, read_yaml
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.mergekit.file import sources
from pytest_mergegate.gate.mergekit.gate import gate_of_mergekit

_FIX = (
    "move the gate file out of that folder, or remove it (one that is named on the command line is "
    "run wherever it lies)"
)


class _Claim(NamedTuple):
    """What a gate file says of folders: that they hold what strangers write."""

    gate: Path
    parts: tuple[str, ...]
    """Of the folders' path, each a pattern."""
    what: str

    def covers(self, place: Path) -> bool:
        """Whether ``place`` is such a folder, or lies in one."""
        return len(place.parts) >= len(self.parts) and all(
            map(fnmatchcase, place.parts, self.parts)
        )


def gates_below(folder: Path, *, hidden: bool = False) -> list[Path]:
    """Every gate file in ``folder`` and below, where pytest would look too, or in all but what is
    installed or git's; no link is followed."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not is_apart(Path(place, f), hidden=hidden)]
        found += [Path(place, file) for file in files if is_gate_name(file)]
    return sorted(found)


def refusals(files: Iterable[Path], *, start: Path) -> dict[Path, GateFileError]:
    """The gate files that lie where strangers write, each with why; ``start`` is the folder where
    the command, or pytest, was started."""
    start = start.absolute()
    asked = {file: Path(os.path.normpath(start / file)) for file in files}
    # all are heard before any is judged: which comes first by name or depth is chance
    nearby = {*asked.values(), *gates_below(top_of(start) or start.resolve(), hidden=True)}
    odd = {path: _by_content(path, start) for path in nearby}
    claims = [claim for path, why in odd.items() if why is None for claim in _claims(path)]
    problems = {file: odd[path] or _by_claims(path, claims) for file, path in asked.items()}
    return {
        file: GateFileError([GateError(why, where=str(file), fix=_FIX)])
        for file, why in problems.items()
        if why is not None
    }


def _by_content(path: Path, start: Path) -> str | None:
    """Why a gate file is no team's, by where it lies."""
    if not str(path).isprintable():
        return "the path of the gate file is not printable text"
    has_git = top_of(path.parent) is not None
    try:
        check_way_inside(path, root=path.parent if has_git else start, where=path.name)
    except PoolError as error:
        return error.what
    for folder in path.parents:
        # a pull request can bring a file .git (a submodule), but no folder of that name
        if folder == start or start not in folder.parents or (folder / ".git").is_dir():
            return None
        try:
            held = model_file_in(folder)
        except OSError:
            continue
        if held is not None:
            name = shown(folder.relative_to(start).as_posix())
            return f"the gate file lies in {name}/, which is read as data: it holds {shown(held)}"
    return None


def _by_claims(path: Path, claims: Iterable[_Claim]) -> str | None:
    """Why a gate file is no team's, by what other gate files say of its folder."""
    place, real = path.parent, Path(os.path.realpath(path.parent))
    claim = next((c for c in claims if c.covers(place) or c.covers(real)), None)
    if claim is None:
        return None
    return (
        f"the gate file lies in {shown(place.name)}/, where {claim.what} "
        f"({shown(claim.gate.name)}), and is read as data"
    )


def _claims(gate: Path) -> Iterator[_Claim]:
    """The folders of strangers that a gate file names, whatever else is wrong with it; without
    those that hold the gate file itself."""
    own = {gate.parent, Path(os.path.realpath(gate.parent))}
    for folder, what in _named(gate):
        # what may lie at any depth is all that is below
        parts = takewhile(lambda part: part != "**", Path(os.path.normpath(folder)).parts)
        claim = _Claim(gate, tuple(parts), what)
        if not any(map(claim.covers, own)):
            yield claim


def _named(gate: Path) -> Iterator[tuple[str, str]]:
    """Folders, as patterns of whole paths, and what lies there."""
    for one in documents_of(gate):
        yield from _named_by(one)


def _named_by(gate: Path) -> Iterator[tuple[str, str]]:
    root = gate.parent
    try:
        data, lines = read_yaml(gate)
        if isinstance(data, Mapping) and "merge_method" in data and "experts" not in data:
            with suppress(GateFileError):  # of one that is wrong the models are heard all the same
                data, _, _ = gate_of_mergekit(data, lines, name=gate.name, root=root)
    except GateFileError:
        return
    if not isinstance(data, Mapping):
        return
    experts, here = data.get("experts"), escape(str(root))
    if isinstance(merged := data.get("merged"), str) and "\0" not in merged:
        yield escape(os.path.realpath(place_of(root, merged))), "a finished merge lies"
    if isinstance(experts, str):
        yield f"{here}/{experts}", "experts lie"
        yield f"{here}/{os.path.dirname(experts)}", "experts lie"  # noqa: PTH120
        if isinstance(examples := data.get("examples"), str):
            held = Path(examples).parent.as_posix().replace("{name}", "*")
            yield f"{here}/{held}", "examples lie"
    for name, path, examples in _experts(data):
        if isinstance(path, str) and "\0" not in path:  # which no path holds
            place = os.path.realpath(place_of(root, path))
            yield escape(place), f"the expert {shown(name, 60)} lies"
            yield escape(os.path.dirname(place)), f"the expert {shown(name, 60)} lies"  # noqa: PTH120
        examples = examples or data.get("examples")
        if isinstance(examples, str) and "\0" not in f"{examples}{name}":
            file = root / examples.replace("{name}", name)
            yield escape(os.path.realpath(file.parent)), f"examples of {shown(name, 60)} lie"


def _experts(data: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Name, path and examples of each expert, of whatever type they are."""
    experts = data.get("experts")
    for name, entry in experts.items() if isinstance(experts, Mapping) else ():
        said = entry if isinstance(entry, Mapping) else {"path": entry}
        yield str(name), said.get("path"), said.get("examples")
    if "merge_method" not in data:
        return
    try:
        models = [str(source.get("model")) for source in sources(data)]
    except (AttributeError, KeyError, TypeError):
        return
    for model in models:
        path = model.rpartition("+")[2]
        yield Path(path).name, path, None
