"""How this package writes files of the user's: in one step, and through no link of a repository.

What a pull request commits as a symlink, where a report, a registry or a folder for them is to be,
would have the gate write to a place of its choice.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import Final

from pytest_mergegate.common.errors import GateError, first_line
from pytest_mergegate.common.files.repository import top_of
from pytest_mergegate.common.plain_text import shown

PARTIAL: Final = ".part"
"""The ending of files that are not whole yet."""
_NOT_FOLLOWED: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_FLAGS: Final = _NOT_FOLLOWED | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Unwritten(GateError):
    """A file that was not written; ``why`` says it in a few words."""

    def __init__(self, path: Path, error: Exception) -> None:
        self.why = getattr(error, "strerror", None) or first_line(error)
        is_link = getattr(error, "errno", None) == errno.ELOOP
        fix = "remove the link, or name the place itself" if is_link else "name another"
        super().__init__(f"{shown(str(path), 300)} could not be written ({self.why})", fix=fix)


def refuse_links(path: Path) -> None:
    """Raise OSError where ``path`` is, or leads through, a symlink that a repository holds.

    Outside of every repository and of the working directory, links are the user's own.
    """
    path = path.absolute()
    for step in (path, *path.parents):
        if not step.is_symlink():
            continue
        holder = Path(os.path.realpath(step.parent))
        if top_of(holder) is not None or holder.is_relative_to(Path.cwd().resolve()):
            told = f"{shown(step.name)} is a symlink to {shown(str(step.readlink()))}"
            raise OSError(errno.ELOOP, f"{told}, and no link in a repository is followed")


def write_file(path: Path, content: str | bytes, *, new: bool = False, mode: int = 0o666) -> None:
    """Write a file and the folders around it; ``new``: only where there is none yet.

    What was there before stays whole until it is replaced in one step. Raises Unwritten.
    """
    with _told(path):
        data = content.encode() if isinstance(content, str) else content
        target = _target(path)
        # by a name that nobody can foresee, or a link could wait there
        partial = target if new else target.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
        number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
            if not new:
                partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


@contextmanager
def open_to_append(path: Path) -> Iterator[BufferedRandom]:
    """A file to add to, made where there is none. Raises Unwritten."""
    with _told(path):
        target = _target(path)
        number = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND | _FLAGS, 0o666)
        with os.fdopen(number, "ab+") as file:
            # what was checked may have been replaced before it was opened
            refuse_links(path)
            _check_regular(os.fstat(number))
            if not os.path.samestat(os.fstat(number), target.lstat()):
                raise OSError(errno.EAGAIN, "it was replaced meanwhile")
            yield file
            file.flush()


def make_folder(path: Path, *, mode: int = 0o777) -> None:
    """Make a folder and those around it, where they are not there. Raises Unwritten."""
    with _told(path):
        refuse_links(path)
        path.mkdir(mode=mode, parents=True, exist_ok=True)


def make_private_folder(path: Path) -> None:
    """Make a folder in a place that all users share, for this one alone. Raises Unwritten."""
    with _told(path):
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        if not (stat.S_ISDIR(status.st_mode) and own):
            raise OSError(errno.EEXIST, "it is a link, or belongs to another user")


def _target(path: Path) -> Path:
    """Where a file is to be, once nothing is in the way. Raises OSError."""
    refuse_links(path)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # other processes may write and remove it meanwhile
        status = target.lstat()
        if not stat.S_ISLNK(status.st_mode):  # one in a circle is left, and is replaced
            _check_regular(status)
    return target


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a FIFO, a socket or a device, and no regular file")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Raise Unwritten in place of what goes wrong."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path, text that is none
        raise Unwritten(path, error) from None
