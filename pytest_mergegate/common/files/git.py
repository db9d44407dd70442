"""git, asked at the root of a repository, and so that no setting or file there starts a program."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

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
    """The process's own without its variables for git, but for where the user's settings are."""
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
