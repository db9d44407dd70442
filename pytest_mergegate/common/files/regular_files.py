"""Opening files that strangers may have put there: regular files only."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path


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
        raise PoolError(
            f"{called} cannot be read ({reason})",
            expert=expert,
            where=where,
            fix="check that the file exists and may be read",
        ) from None
    file = os.fdopen(number, "rb")
    try:
        _check_regular(os.fstat(number), called, expert, where)
    except PoolError:
        file.close()
        raise
    return file


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _check_regular(status: os.stat_result, called: str, expert: str | None, where: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, a socket or a device"
    raise PoolError(
        f"{called} is {kind}, not a regular file",
        expert=expert,
        where=where,
        fix="put the file itself there",
    )
