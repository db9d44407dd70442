"""YAML files of gates: safe, small, and every error and every key with its line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from pytest_mergegate.common.errors import GateError, GateFileError, PoolError
from pytest_mergegate.common.files.documents import document, in_document
from pytest_mergegate.common.files.reading import open_regular
from pytest_mergegate.common.plain_text import shown

Location = tuple[str | int, ...]
LIMIT = 512 << 10
"""Bytes of a file: thousands of experts fit in."""
_MARKS, _ENTRIES = (b"\n", b",", b":", b"[", b"{", b"- ", b"? "), 40_000
"""Each entry has a mark of its own, and takes a tenth of a millisecond to read."""
_WRITTEN_OUT = 4 << 20
"""Characters of a file without its aliases, those of each node's place counted in."""
_NODE = 20
_BITS = 1000
"""Of a whole number: of more no float is made, and at last no text."""


class _Loader(yaml.SafeLoader):
    """Safe YAML whose every error says on which line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            made = super().construct_object(node, deep)
        except ValueError as error:  # such as the 45th of a month
            raise ConstructorError(None, None, str(error), node.start_mark) from None
        if isinstance(made, int) and made.bit_length() > _BITS:
            what = "a number with more than 300 digits"
            raise ConstructorError(None, None, what, node.start_mark)
        return made


def read_text(path: Path) -> str:
    """The text of a gate file. Raises GateFileError for anything but a small, regular file."""
    try:
        with open_regular(path, expert=None, called="the gate file") as file:
            data = file.read(LIMIT + 1)
        if len(data) <= LIMIT and sum(map(data.count, _MARKS)) <= _ENTRIES:
            return data.decode("utf-8").replace("\r\n", "\n")
        what = f"the gate file is larger than {LIMIT >> 10} KiB, or has over {_ENTRIES} entries"
        problem = GateError(what, where=path.name, fix="gate fewer experts at once")
    except PoolError as error:
        problem = GateError(error.what, where=str(path), fix="check the path")
    except UnicodeDecodeError:
        problem = GateError("the gate file is not UTF-8", where=path.name)
    raise GateFileError([problem])


def read_yaml(path: Path) -> tuple[object, dict[Location, int]]:
    """What a gate file says, and the 1-based line of each of its keys; of several documents the
    one that ``path`` names.

    Raises GateFileError for what is no YAML, or more of it than a gate takes.
    """
    loader: _Loader | None = None
    path, number = in_document(path)
    try:
        loader = _Loader(read_text(path))
        node = _chosen(_documents(loader), number, path.name)
        lines: dict[Location, int] = {(): 1}
        if node is None:
            return None, lines
        problems: list[GateError] = []
        _check_aliases(node, path.name)
        _note_lines(node, (), lines, problems, path.name)
        if problems:
            raise GateFileError(problems)
        return loader.construct_document(node), lines
    except (yaml.YAMLError, RecursionError) as error:
        raise GateFileError([_not_yaml(error, path.name)]) from None
    finally:
        if loader is not None:
            loader.dispose()


def documents_of(path: Path) -> list[Path]:
    """A gate file, or each of its documents, where it has several; a file that cannot be read is
    left to who reads it."""
    file, number = in_document(path)
    if number is not None:
        return [path]
    try:
        loader = _Loader(read_text(file))
        try:
            count = len(_documents(loader))
        finally:
            loader.dispose()
    except (GateFileError, yaml.YAMLError, RecursionError):
        return [path]
    return [document(path, k) for k in range(1, count + 1)] if count > 1 else [path]


def _documents(loader: _Loader) -> list[yaml.Node]:
    """All documents of a file but empty ones."""
    found = []
    while loader.check_node():
        node = loader.get_node()
        if node is not None and not node.tag.endswith(":null"):
            found.append(node)
    return found


def _chosen(found: Sequence[yaml.Node], number: int | None, name: str) -> yaml.Node | None:
    """The document that is meant; None where there is none."""
    if number is None and len(found) > 1:
        where = f"{name}:{found[1].start_mark.line + 1}"
        what = f"the file holds {len(found)} documents, each a gate of its own"
        raise GateFileError(
            [GateError(what, where=where, fix=f"name one of them, such as {name}#1")]
        )
    if number is not None and number > len(found):
        what = f"there is no document {number}, the file holds {len(found)}"
        raise GateFileError([GateError(what, where=name, fix="count them from 1")])
    return found[(number or 1) - 1] if found else None


def line_of(lines: Mapping[Location, int], location: Location) -> int:
    """The line of the innermost known key on the way to ``location``; 0 where none is known."""
    known = (lines.get(location[:length]) for length in range(len(location), -1, -1))
    return next((line for line in known if line is not None), 0)


def where_of(name: str, lines: Mapping[Location, int], location: Location) -> str:
    """``file:line`` of a key, for error messages."""
    line = line_of(lines, location)
    return f"{name}:{line}" if line else name


def _not_yaml(error: Exception, name: str) -> GateError:
    if isinstance(error, RecursionError):
        return GateError("not valid YAML: nested too deeply", where=name)
    if not isinstance(error, yaml.MarkedYAMLError):  # characters that no YAML has
        return GateError(f"not valid YAML: {str(error).splitlines()[0]}", where=name)
    where = f"{name}:{error.problem_mark.line + 1}" if error.problem_mark else name
    kind = "not allowed here" if isinstance(error, ConstructorError) else "not valid YAML"
    return GateError(f"{kind}: {error.problem or 'nested too deeply'}", where=where)


def _check_aliases(node: yaml.Node, name: str) -> None:
    """Raise GateFileError where aliases stand for more than a gate file can say: 800 bytes may
    stand for gigabytes."""
    sizes: dict[int, float] = {}

    def size(part: yaml.Node) -> float:
        if id(part) not in sizes:
            sizes[id(part)] = float("inf")  # met again below itself, it has no end
            if isinstance(part, yaml.ScalarNode):
                own = float(len(part.value))
            elif isinstance(part, yaml.MappingNode):
                own = sum(size(key) + size(value) for key, value in part.value)
            else:
                own = sum(map(size, part.value))
            sizes[id(part)] = own + _NODE
        return sizes[id(part)]

    if size(node) > _WRITTEN_OUT:
        what = f"written out, without its aliases (*name), the file is over {_WRITTEN_OUT >> 20} MB"
        fix = "write what is meant without aliases"
        raise GateFileError([GateError(what, where=f"{name}:1", fix=fix)])


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
            if not isinstance(key, yaml.ScalarNode):
                what = "a key must be plain text"
                problems.append(GateError(what, where=f"{name}:{line}", fix="write a name"))
                continue
            label = str(key.value)
            if label in seen:
                what = f"{shown(label)!r} is given twice (first on line {seen[label]})"
                problems.append(GateError(what, where=f"{name}:{line}", fix="keep one of the two"))
            seen[label] = line
            lines[(*location, label)] = line
            _note_lines(value, (*location, label), lines, problems, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*location, index)] = value.start_mark.line + 1
            _note_lines(value, (*location, index), lines, problems, name)
