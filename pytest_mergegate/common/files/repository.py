"""The repository around a gate: git is asked so that no setting or file there starts a program, and
symlinks that strangers commit must not lead out of it."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown

_KEPT: Final = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
"""Of the environment's variables for git, those that say where the user's own settings are."""
_OVERRIDDEN: Final = {
    # or files that look like a bare repository are one, and their ``config`` is obeyed
    "safe.bareRepository": "explicit",
    # each of these can name a program; an empty string turns it off in every version of git
    "core.fsmonitor": "",
    "core.pager": "",
    "core.askPass": "",
    "credential.helper": "",
    "core.hooksPath": os.devnull,
    "core.attributesFile": os.devnull,
    # what a partial clone lacks would be fetched, over whatever a remote's settings say
    "protocol.allow": "never",
    "submodule.recurse": "false",
}
_LFS: Final = {
    "filter.lfs.clean": "git-lfs clean -- %f",
    "filter.lfs.process": "git-lfs filter-process",
}
"""Without it whatever it keeps would count as changed once it is touched."""
_SET: Final = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_PAGER": "cat",
    "LC_ALL": "C",
}


def top_of(folder: Path) -> Path | None:
    """The nearest folder from ``folder`` upwards that holds a ``.git``; None where none does.

    git itself would also take a folder of committed files that looks like a bare repository.
    """
    real = Path(os.path.realpath(folder))
    return next((p for p in (real, *real.parents) if (p / ".git").exists()), None)


def run_git(top: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """What git says in ``top``, the root of a repository.

    No hook, file system monitor, pager or credential helper is started, no filter but git-lfs as
    its own installer sets it, and nothing is fetched. Raises OSError where git cannot be run.
    """
    # the names of filters are free, so those that are set have to be asked for
    listed = _run(top, ("config", "--name-only", "--null", "--get-regexp", r"^filter\."), {})
    keys = [key for key in os.fsdecode(listed.stdout).split("\0") if key]
    required = {f"{key.rpartition('.')[0]}.required": "false" for key in keys}
    return _run(top, arguments, {key: _LFS.get(key, "") for key in keys} | required)


def check_contained(
    path: Path, *, root: Path, expert: str | None, where: str, own: bool = True
) -> None:
    """Check that no symlink on the way to a file or folder leaves the repository, nor any inside.

    ``root`` is the gate's folder. A path that itself names a place outside of the repository is the
    user's ``own`` decision; what lies inside may then not leave that folder. A path from an adapter
    may not. A snapshot in a cache of huggingface_hub may link to the blobs of its own repository.
    Raises PoolError under MG003, and under MG001 for FIFOs, sockets and devices.
    """
    with _told(path, expert, where):
        repository = top_of(root) or root.resolve()
        _check_way(path, repository)
        real = path.resolve()
        inside = real.is_relative_to(repository)
        if not inside and not own:
            raise PoolError(
                f"{shown(str(path))} lies outside of the repository, and is not named by the gate "
                "file",
                code="MG003",
                fix="name it in the gate file, if it is meant",
            )
        if real.is_dir():
            _check_content(real, repository if inside else real)


def is_contained(path: Path, *, root: Path, own: bool = True) -> bool:
    """Whether ``check_contained`` has nothing to say, so that what is there may be walked."""
    try:
        check_contained(path, root=root, expert=None, where="", own=own)
    except PoolError:
        return False
    return True


def check_way_inside(path: Path, *, root: Path, where: str) -> None:
    """Check that no symlink on the way to ``path``, itself included, leaves the repository; what
    is there is not looked at. Raises PoolError as ``check_contained``."""
    with _told(path, None, where):
        _check_way(path, top_of(root) or root.resolve())


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
            check_way_inside(path, root=root, where=where)
    return list({path: None for folder in found for path in folder.glob(last)})


def _run(
    top: Path, arguments: tuple[str, ...], settings: dict[str, str]
) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("git", path=_path())
    if program is None:
        raise FileNotFoundError(2, "No such file or directory", "git")
    return subprocess.run(
        [program, *arguments],
        cwd=top,
        env=_environment(top, _OVERRIDDEN | settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def _path() -> str:
    """PATH without its relative entries, which would be looked up in the repository."""
    return os.pathsep.join(entry for entry in os.get_exec_path() if Path(entry).is_absolute())


def _environment(top: Path, settings: dict[str, str]) -> dict[str, str]:
    """The process's own without its variables for git, except for where the user's settings are."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in _KEPT}
    given = os.environ.get("GIT_CONFIG_COUNT", "")
    pairs = [
        (os.environ.get(f"GIT_CONFIG_KEY_{k}", ""), os.environ.get(f"GIT_CONFIG_VALUE_{k}", ""))
        for k in range(int(given) if given.isdecimal() else 0)
    ]
    pairs += settings.items()  # of two values of one key the later counts
    for number, (key, value) in enumerate(pairs):
        own |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    above = str(top.resolve().parent)
    own |= {"GIT_CONFIG_COUNT": str(len(pairs)), "GIT_CEILING_DIRECTORIES": above}
    return {**own, **_SET, "PATH": _path()}


@contextmanager
def _told(path: Path, expert: str | None, where: str) -> Iterator[None]:
    """Say of a PoolError where the gate asked for the place, and raise one for what else fails."""
    try:
        yield
        return
    except PoolError as refused:
        problem = refused
    except (OSError, RuntimeError, ValueError) as error:  # such as links in a circle
        reason = getattr(error, "strerror", None) or str(error)
        what = f"{shown(str(path))} cannot be followed ({shown(reason)})"
        problem = PoolError(what, fix="put the files themselves there")
    raise PoolError(problem.what, code=problem.code, expert=expert, where=where, fix=problem.fix)


def _check_way(path: Path, repository: Path) -> None:
    """Check every component of ``path`` that lies in the repository."""
    for step in reversed((path, *path.parents)):
        inside = step.parent.resolve().is_relative_to(repository)
        if inside and step.is_symlink() and not _stays(step.resolve(), repository):
            raise _leaves(step, repository)


def _check_content(folder: Path, boundary: Path) -> None:
    blobs = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else None
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_symlink():
                    target = path.resolve()
                    if not _stays(target, boundary) and target.parent != blobs:
                        raise _leaves(path, boundary)
                    if not path.exists():
                        continue
                mode = entry.stat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    called = shown(os.path.relpath(path, folder.parent))
                    what = f"{called} is a FIFO, a socket or a device, not a regular file"
                    raise PoolError(what, fix="remove it")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _stays(target: Path, boundary: Path) -> bool:
    """Whether ``target`` is inside; git's own files are not (git-annex keeps data there)."""
    if not target.is_relative_to(boundary):
        return False
    parts = target.relative_to(boundary).parts
    return parts[:1] != (".git",) or parts[:2] == (".git", "annex")


def _leaves(link: Path, boundary: Path) -> PoolError:
    return PoolError(
        f"the symlink {shown(os.path.relpath(link, boundary))} leaves the repository: it leads to "
        f"{shown(str(link.readlink()))}",
        code="MG003",
        fix="put the files themselves there, or name the folder by its own path in the gate file",
    )
