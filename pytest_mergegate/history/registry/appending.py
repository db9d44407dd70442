"""New lines at the end of a registry: under a lock, each once, and merged by git line by line."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.repository import run_git, top_of
from pytest_mergegate.common.files.writing import (
    Unwritten,
    make_private_folder,
    open_to_append,
    refuse_links,
)
from pytest_mergegate.history.registry.lines import RegistryLine
from pytest_mergegate.history.registry.reading import read_registry

PATIENCE: Final = 60.0
"""Seconds to wait for who else is writing; it takes them less than one."""


def append_lines(path: Path, lines: Iterable[RegistryLine]) -> int:
    """Write at the end what is not there yet; how many lines that were.

    What is there stays as it is to the byte. A file that is made in a git work tree is given the
    attribute ``merge=union``. Raises GateError where it cannot be written.
    """
    new = {line.id: line for line in lines}
    if not new:
        return 0
    path = path.absolute()
    try:
        with FileLock(_lock(path), timeout=PATIENCE):
            found = read_registry(path)
            for line in found.lines:
                new.pop(line.id, None)
            if new:
                _append(path, "".join(f"{line.to_json()}\n" for line in new.values()))
                if not found.exists:
                    _merge_by_union(path)
    except Timeout:
        raise unwritten(path, f"another process has held it for {PATIENCE:.0f} s") from None
    except Unwritten as error:
        raise unwritten(path, error.why, error.fix) from None
    except OSError as error:
        raise unwritten(path, str(error.strerror or error)) from None
    return len(new)


def unwritten(path: Path, why: str, fix: str | None = None) -> GateError:
    """The error of a registry that could not be written."""
    return GateError(f"the registry was not written ({why})", where=path.as_posix(), fix=fix)


def _lock(path: Path) -> Path:
    """Not beside the file, where it would lie about in a work tree."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"pytest-mergegate-locks-{user}"
    make_private_folder(folder)
    return folder / f"{hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]}.lock"


def _append(path: Path, text: str) -> None:
    with open_to_append(path) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            # a line that was cut short stays so, and takes no other along
            text = text if file.read(1) == b"\n" else f"\n{text}"
        file.write(text.encode())


def _merge_by_union(path: Path) -> None:
    """Have git keep the new lines of both sides, where it looks after the file."""
    if not _is_unsettled(path):
        return
    attributes = path.parent / ".gitattributes"
    try:
        refuse_links(attributes)
        _append(attributes, f"{_pattern(path.name)} merge=union\n")
    except (OSError, Unwritten) as error:
        why = error.why if isinstance(error, Unwritten) else error.strerror
        raise GateError(
            f"the registry was written, but this was not ({why})",
            where=attributes.as_posix(),
            fix=f"add the line '{path.name} merge=union', or branches will conflict",
        ) from None


def _pattern(name: str) -> str:
    """What stands for the file alone in .gitattributes."""
    literal = re.sub(r"([\\*?\[])", r"\\\1", name)
    quoted = literal.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"' if re.search(r'[\s"]', name) or name.startswith(("#", "!")) else literal


def _is_unsettled(path: Path) -> bool:
    """Whether the file lies in a work tree, is not ignored there, and no attribute says how to
    merge it."""
    top = top_of(path.parent)
    if top is None:
        return False
    place = f"./{path.parent.resolve().relative_to(top) / path.name}"
    try:
        if run_git(top, "check-ignore", "-q", "--", place).returncode != 1:
            return False
        return run_git(top, "check-attr", "merge", "--", place).stdout.endswith(b": unspecified\n")
    except OSError:  # there is no git
        return False
