"""JSON files from strangers, read as data within limits."""

import json
from pathlib import Path
from typing import Any, NoReturn

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.regular_files import label, open_regular, read_at_most
from pytest_mergegate.common.plain_text import shown

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
        data = read_at_most(file, limit)
    name = shown(path.name)
    crowded = data.count(b"{") + data.count(b"[") > _CONTAINERS or data.count(b",") > _ENTRIES
    try:
        if len(data) > limit:
            what = f"{name} is larger than {limit >> 20} MiB"
        elif crowded:
            what = f"{name} has too many entries"
        elif isinstance(parsed := parse_json(data), dict):
            return parsed
        else:
            what = f"{name} is not a JSON object"
    except json.JSONDecodeError as error:
        what = f"{name} is not JSON ({error.msg} at column {error.colno})"
        where += f":{error.lineno}"
    except UnicodeDecodeError as error:
        what = f"{name} is not JSON (not UTF-8 text)"
        line = data.count(b"\n", 0, error.start) + 1
        where += f":{line}"
    except RecursionError:
        what = f"{name} is nested too deeply"
    except ValueError as error:
        what = f"{name}: {error}"
    raise PoolError(what, expert=expert, where=where, fix="save it again as plain JSON")


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
