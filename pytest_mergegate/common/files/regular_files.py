"""Opening files that strangers may have put there: regular files only, and no more of them than a
limit."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown

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


def _check_regular(status: os.stat_result, called: str, expert: str | None, where: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, a socket or a device"
    what = f"{called} is {kind}, not a regular file"
    raise PoolError(what, expert=expert, where=where, fix="put the file itself there")
