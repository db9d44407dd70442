"""Symlinks that strangers commit must not lead out of the repository of the gate file."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files import git
from pytest_mergegate.common.plain_text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEADS_OUT = "MG003"


def check_contained(
    path: Path, *, root: Path, expert: str | None, where: str, own: bool = True
) -> None:
    """Check that no symlink on the way to a file or folder leaves the repository, nor any inside.

    ``root`` is the gate's folder. A path that itself names a place outside of the repository is the
    user's ``own`` decision; what lies inside may then not leave that folder. A path from an adapter
    may not. A snapshot in a cache of huggingface_hub may link to the blobs of its own repository.
    Raises PoolError under MG003, and under MG001 for FIFOs, sockets and devices.
    """
    with _followed(path, expert, where):
        repository = repository_of(root)
        _check_way(path, repository, expert, where)
        real = path.resolve()
        inside = real.is_relative_to(repository)
        if not inside and not own:
            raise _outside(path, expert, where)
        if real.is_dir():
            _check_content(real, repository if inside else real, expert, where)


def check_way(path: Path, *, root: Path, where: str) -> None:
    """Check that no symlink on the way to ``path``, itself included, leaves the repository; what
    is there is not looked at. Raises PoolError as ``check_contained``."""
    with _followed(path, None, where):
        _check_way(path, repository_of(root), None, where)


@contextmanager
def _followed(path: Path, expert: str | None, where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # such as links in a circle
        reason = getattr(error, "strerror", None) or str(error)
        raise PoolError(
            f"{shown(str(path))} cannot be followed ({shown(reason)})",
            expert=expert,
            where=where,
            fix="put the files themselves there",
        ) from None


def glob_inside(root: Path, pattern: str, *, where: str) -> list[Path]:
    """What ``pattern`` matches under ``root``, found without following a link out.

    Such a link may be a match itself, and is refused as an expert then; looking through it is
    refused here. Raises PoolError under MG003, and as ``Path.glob``.
    """
    *folders, last = Path(pattern).parts or ("",)
    found = {root: None}
    for part in folders:
        inside = {path for folder in found for path in folder.glob(part) if path.is_dir()}
        # releases of Python differ in whether ** matches links; none looks through them
        found = {p: None for p in sorted(inside) if part != "**" or not p.is_symlink()}
        for path in found:
            check_way(path, root=root, where=where)
    return list({path: None for folder in found for path in folder.glob(last)})


def repository_of(root: Path) -> Path:
    """The nearest folder from ``root`` upwards with a ``.git``, else ``root`` itself."""
    return git.top_of(root) or root.resolve()


def _check_way(path: Path, repository: Path, expert: str | None, where: str) -> None:
    """Check every component of ``path`` that lies in the repository."""
    for step in reversed((path, *path.parents)):
        inside = step.parent.resolve().is_relative_to(repository)
        if inside and step.is_symlink() and not _stays(step.resolve(), repository):
            raise _leaves(step, repository, expert, where)


def _check_content(folder: Path, boundary: Path, expert: str | None, where: str) -> None:
    blobs = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else None
    for entry in _entries(folder):
        if entry.is_symlink():
            target = Path(entry.path).resolve()
            if not _stays(target, boundary) and target.parent != blobs:
                raise _leaves(Path(entry.path), boundary, expert, where)
        mode = entry.stat().st_mode if not _is_dangling(entry) else stat.S_IFREG
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise PoolError(
                f"{shown(os.path.relpath(entry.path, folder.parent))} is a FIFO, a socket or a "
                "device, not a regular file",
                expert=expert,
                where=where,
                fix="remove it",
            )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in ``folder`` and its subfolders, without following symlinks to folders."""
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _is_dangling(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not Path(entry.path).exists()


def _stays(target: Path, boundary: Path) -> bool:
    """Whether ``target`` is inside; git's own files are not (git-annex keeps data there)."""
    if not target.is_relative_to(boundary):
        return False
    parts = target.relative_to(boundary).parts
    return parts[:1] != (".git",) or parts[:2] == (".git", "annex")


def _leaves(link: Path, boundary: Path, expert: str | None, where: str) -> PoolError:
    return PoolError(
        f"the symlink {shown(os.path.relpath(link, boundary))} leaves the repository: it leads to "
        f"{shown(str(link.readlink()))}",
        code=_LEADS_OUT,
        expert=expert,
        where=where,
        fix="put the files themselves there, or name the folder by its own path in the gate file",
    )


def _outside(path: Path, expert: str | None, where: str) -> PoolError:
    return PoolError(
        f"{shown(str(path))} lies outside of the repository, and is not named by the gate file",
        code=_LEADS_OUT,
        expert=expert,
        where=where,
        fix="name it in the gate file, if it is meant",
    )
