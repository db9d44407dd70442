"""What tests of links, git and caches share: the command, git, and what a folder holds."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

_SOMEBODY = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "protocol.file.allow=always")


def mergegate(*arguments: object) -> int:
    """The installed command; its exit code."""
    (command,) = entry_points(group="console_scripts", name="mergegate")
    try:
        return int(command.load()([*map(str, arguments)]))
    except SystemExit as exit:
        return int(exit.code or 0)


def git(folder: Path, *arguments: str, check: bool = False) -> str:
    """git as anybody runs it, which obeys whatever looks like a repository."""
    command = ["git", *_SOMEBODY, "-c", "safe.bareRepository=all", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=check)
    return done.stdout


def contents(*folders: Path) -> dict[str, bytes]:
    """Every file in some folders."""
    files = (Path(root, name) for f in folders for root, _, names in os.walk(f) for name in names)
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def commit(root: Path) -> None:
    """What a pull request may bring, ignored or not."""
    git(root, "add", "--all", "--force")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "a pull request")


def forged(folder: Path) -> None:
    """Files as a stranger would have them in a cache."""
    shelf = folder / "entries-2" / "ab"
    shelf.mkdir(parents=True)
    (shelf / f"{'ab' * 32}.safetensors").write_bytes(b"forged")
