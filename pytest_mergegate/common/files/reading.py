"""Reading files that strangers may have put there: regular files only, no more of them than a
limit, and JSON as data."""

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown

LIMIT = 64 << 20
"""Bytes of a file, unless the caller says otherwise."""
_CONTAINERS, _ENTRIES = 2_000_000, 8_000_000
"""Objects and lists, and what is in them: each takes memory many times its text's."""
DEPTH = 100
"""Levels of nesting; whatever walks or prints the object must not run out of stack."""
_OWN_LIMIT = 256 << 20
"""Bytes of a file of this package's own: reports, baselines, registries."""
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def label(path: Path) -> str:
    """How messages call a file: its folder and its name, in one line."""
    return shown(f"{path.parent.name}/{path.name}")


def open_regular(
    path: Path, *, expert: str | None, where: str | None = None, called: str | None = None
) -> BufferedReader:
    """Open a regular file for reading; messages call it ``called``, else by its name.

    Raises PoolError for what is missing or may not be read, and for anything else than a regular
    file, which is not opened: a FIFO would wait for a writer forever.
    """
    where, called = where or label(path), called or shown(path.name)
    try:
        _check_regular(path.stat(), called, expert, where)
        # another kind of file may have taken its place since
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = f"{called} cannot be read ({reason})"
        fix = "check that the file exists and may be read"
        raise PoolError(what, expert=expert, where=where, fix=fix) from None
    file = os.fdopen(number, "rb")
    try:
        _check_regular(os.fstat(number), called, expert, where)
    except PoolError:
        file.close()
        raise
    return file


def read_at_most(file: BufferedReader, most: int) -> bytes:
    """The first ``most`` bytes of a file, and one more where it has more."""
    status = os.fstat(file.fileno())
    # read() sets aside all that it is asked for
    size = min(status.st_size, most) if stat.S_ISREG(status.st_mode) else most
    return file.read(size + 1)


def read_own(path: Path) -> bytes:
    """A file that this package writes, and people may edit. Raises OSError, also for more of it
    than anybody has."""
    with path.open("rb") as file:
        data = read_at_most(file, _OWN_LIMIT)
    if len(data) > _OWN_LIMIT:
        raise OSError(errno.EFBIG, f"it is larger than {_OWN_LIMIT >> 20} MiB")
    return data


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


def _check_regular(status: os.stat_result, called: str, expert: str | None, where: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, a socket or a device"
    what = f"{called} is {kind}, not a regular file"
    raise PoolError(what, expert=expert, where=where, fix="put the file itself there")


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
