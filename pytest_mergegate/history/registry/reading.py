"""A registry file: the lines that count, and a word about every one that does not."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn

from pydantic import ValidationError

from pytest_mergegate.common.errors import GateError, first_line
from pytest_mergegate.common.files.reading import read_own
from pytest_mergegate.common.files.writing import refuse_links
from pytest_mergegate.history.registry.lines import SCHEMA, RegistryLine, line_id

Kind = Literal[
    "truncated",
    "not_utf8",
    "not_json",
    "not_a_number",
    "other_schema",
    "not_a_line",
    "edited",
    "duplicate",
    "conflict_marker",
    "other_versions",
]
_VERSIONS: Final = ("pytest-mergegate", "mergekit")
"""What decides on scores beside the models; the other libraries move their last digits."""
_MARKERS: Final = (b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>")
_REMOVE: Final = "remove the line; the next run of that gate writes it again"
_SHOWN: Final = 5
"""Numbers of lines of which the same is told."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong, or worth knowing, about one line."""

    line: int
    """1-based; the first where there are several."""
    kind: Kind
    message: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Registry:
    """What a file holds."""

    path: Path
    lines: tuple[RegistryLine, ...]
    problems: tuple[Problem, ...]
    exists: bool
    """A file that is not there has nothing in it."""


def read_registry(path: Path) -> Registry:
    """Read a registry; a file that is not there has nothing in it.

    A line that cannot be used is left out, with a word about it. Lines of other versions of this
    package or of mergekit count, with a word: what a score means is the schema's affair. Raises
    GateError for a file that cannot be read at all.
    """
    try:
        refuse_links(path)
        content = read_own(path)
    except FileNotFoundError:
        return Registry(path=path, lines=(), problems=(), exists=False)
    except OSError as error:
        raise GateError(
            f"the registry cannot be read ({error.strerror})",
            where=path.as_posix(),
            fix="name a file of lines as a gate writes them",
        ) from None
    lines: dict[str, tuple[int, RegistryLine]] = {}
    problems: list[Problem] = []
    texts = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, raw in enumerate(map(bytes.strip, texts), 1):
        found = _parse(raw, number, last=number == len(texts)) if raw else None
        if isinstance(found, Problem):
            problems.append(found)
        elif found is not None and found.id in lines:
            problem = Problem(
                line=number,
                kind="duplicate",
                message="the same as an earlier line; counted once",
                fix="none is needed; one may be removed",
            )
            problems.append(problem)
        elif found is not None:
            lines[found.id] = number, found
    problems += _other_versions(lines.values())
    return Registry(
        path=path,
        lines=tuple(line for _, line in lines.values()),
        problems=tuple(sorted(problems, key=lambda problem: problem.line)),
        exists=True,
    )


def _parse(raw: bytes, number: int, *, last: bool) -> RegistryLine | Problem:
    def problem(kind: Kind, message: str, fix: str = _REMOVE) -> Problem:
        return Problem(line=number, kind=kind, message=message, fix=fix)

    if raw.startswith(_MARKERS):
        return problem(
            "conflict_marker",
            "a mark of a merge conflict; the lines of both sides count",
            "remove the mark and keep both sides; the attribute merge=union spares you the next",
        )
    try:
        text = raw.decode("utf-8")
        data = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            said = "no schema"
            if not isinstance(data, dict):
                said = "no JSON object"
            elif "schema" in data:
                said = f"schema {str(data['schema'])[:60]!r}"
            return problem("other_schema", f"left out: {said} where {SCHEMA!r} is read")
        line = RegistryLine.model_validate_json(text)
        if line.id != line_id(data):
            return problem("edited", "left out: its id does not match what it says: it was edited")
        return line
    except UnicodeDecodeError as error:
        if raw.startswith(b"{") and error.reason == "unexpected end of data":
            return problem("truncated", "left out: it was cut short")
        return problem("not_utf8", "left out: not UTF-8")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = " ".join(f"{where}: {first['msg']}".split())[:200]
        return problem("not_a_line", f"left out: {said}")
    except _NotANumberError as error:
        return problem("not_a_number", f"left out: {error} is no number")
    except (ValueError, RecursionError) as error:  # of json, and what cannot be encoded
        if raw.startswith(b"{") and (last or not raw.endswith(b"}")):
            return problem("truncated", "left out: it was cut short")
        why = "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        return problem("not_json", f"left out: no JSON ({why})")


class _NotANumberError(ValueError):
    """NaN or an infinity, which JSON does not know."""


def _refuse(constant: str) -> NoReturn:
    raise _NotANumberError(constant)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text[:20])


def _other_versions(lines: Iterable[tuple[int, RegistryLine]]) -> list[Problem]:
    """One problem for every combination of versions that is not this installation's."""
    from importlib.metadata import version

    ours = tuple(version(name) for name in _VERSIONS)
    found: dict[tuple[str, ...], list[int]] = {}
    for number, line in lines:
        theirs = tuple(line.versions.get(name, "unknown") for name in _VERSIONS)
        found.setdefault(theirs, []).append(number)

    def named(versions: tuple[str, ...]) -> str:
        return " and ".join(f"{n} {v}" for n, v in zip(_VERSIONS, versions, strict=True))

    return [
        Problem(
            line=numbers[0],
            kind="other_versions",
            message=f"{len(numbers)} line{'s' * (len(numbers) > 1)} of {named(theirs)}, not "
            f"{named(ours)}; counted",
            fix="gate those pools again if scores have changed since",
        )
        for theirs, numbers in found.items()
        if theirs != ours
    ]


def told(registry: Registry, *, most: int | None = None) -> tuple[str, ...]:
    """What to tell of the problems, a line for all that are alike; no more lines than ``most``."""
    alike: dict[tuple[str, str], list[int]] = {}
    for problem in registry.problems:
        alike.setdefault((problem.message, problem.fix), []).append(problem.line)
    where, said = registry.path.as_posix(), []
    for (message, fix), numbers in alike.items():
        more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        place = f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:_SHOWN]))}{more}"
        said.append(f"{where}: {place}: {message} (fix: {fix})")
    if most is not None and len(said) > most:
        said[most:] = [f"{where}: and {len(said) - most} more things to say of its lines"]
    return tuple(said)
