"""JSON files from strangers, read as data within limits."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.regular_files import label, open_regular
from pytest_mergegate.common.plain_text import shown

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 64 << 20
"""Bytes of a file, unless the caller says otherwise."""
_CONTAINERS, _ENTRIES = 2_000_000, 8_000_000
"""Objects and lists, and what is in them: each takes memory many times its text's."""
DEPTH = 100
"""Levels of nesting; whatever walks or prints the object must not run out of stack."""


def read_json_object(
    path: Path, *, expert: str | None, where: str | None = None, limit: int = LIMIT
) -> dict[str, Any]:
    """The object in a JSON file; ``where`` is how messages call the file.

    Raises PoolError (MG001) for a file that is missing, not regular, over ``limit`` bytes, not
    UTF-8, not JSON, nested deeper than ``DEPTH``, no object; for keys given twice, NaN, infinity
    and numbers with thousands of digits.
    """
    where = where or label(path)
    with open_regular(path, expert=expert, where=where) as file:
        size = os.fstat(file.fileno()).st_size  # read() sets aside all that it is asked for
        data = file.read(min(size, limit) + 1)
    name = shown(path.name)
    if len(data) > limit:
        raise _refused(f"{name} is larger than {limit >> 20} MiB", expert, where)
    if sum(data.count(mark) for mark in (b"{", b"[")) > _CONTAINERS or data.count(b",") > _ENTRIES:
        raise _refused(f"{name} has too many entries", expert, where)
    try:
        parsed = parse_json(data)
    except json.JSONDecodeError as error:
        what = f"{name} is not JSON ({error.msg} at column {error.colno})"
        raise _refused(what, expert, f"{where}:{error.lineno}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"{name} is not JSON (not UTF-8 text)"
        raise _refused(what, expert, f"{where}:{line}") from None
    except RecursionError:
        raise _refused(f"{name} is nested too deeply", expert, where) from None
    except ValueError as error:
        raise _refused(f"{name}: {error}", expert, where) from None
    if not isinstance(parsed, dict):
        raise _refused(f"{name} is not a JSON object", expert, where)
    return parsed


def parse_json(data: bytes) -> Any:
    """Strict JSON in UTF-8, with or without a byte order mark.

    Raises ValueError, with its subclasses UnicodeDecodeError and json.JSONDecodeError, and
    RecursionError for nesting deeper than ``DEPTH``.
    """
    parsed = json.loads(
        data.decode("utf-8-sig"),
        object_pairs_hook=unique,
        parse_constant=_constant,
        parse_int=_integer,
    )
    _check_depth(parsed)
    return parsed


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dict; of a key given twice, the second would silently win."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{shown(twice)}' is given twice")
    return found


def strings(value: object) -> list[str]:
    """The strings in a list; none of what is no list."""
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _integer(digits: str) -> int:
    if len(digits) > 1000:  # Python's own limit may be off, and reading takes quadratic time
        raise ValueError(f"a number with {len(digits)} digits")
    return int(digits)


def _check_depth(parsed: object) -> None:
    level, depth = [parsed], 0
    while level:
        depth += 1
        if depth > DEPTH:
            raise RecursionError
        containers = [value for value in level if isinstance(value, (dict, list))]
        level = [v for c in containers for v in (c.values() if isinstance(c, dict) else c)]


def _refused(what: str, expert: str | None, where: str) -> PoolError:
    return PoolError(what, expert=expert, where=where, fix="save it again as plain JSON")
