"""Which gate files ``mergegate check`` runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.plain_text import say
from pytest_mergegate.gate.discovery import gates_below, refusals

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Mapping

    from pytest_mergegate.common.errors import GateFileError


def find_gates(chosen: argparse.Namespace) -> dict[Path, GateFileError | None]:
    """Every gate file that was named, or lies in a folder that was; with why it must not run, where
    it lies among the data of strangers. Raises UsageError."""
    paths = chosen.paths
    if not paths:
        if chosen.changed_since is None:
            raise UsageError("name a gate file, or a folder of them")
        from pytest_mergegate.cli.changed_since import repository

        top = repository(Path.cwd())
        paths = [Path() if top == Path.cwd() else top]
    found: dict[Path, GateFileError | None] = {}
    for path in paths:
        if path.is_dir():
            files = gates_below(path)
            here = path.absolute().is_relative_to(Path.cwd())
            found |= dict.fromkeys(files) | refusals(files, start=Path.cwd() if here else path)
        elif not path.exists():
            raise UsageError(f"there is no file or folder {path}")
    return found | dict.fromkeys(path for path in paths if not path.is_dir())


def too_few(found: Collection[Path], required: int) -> str:
    """What to say where fewer gates were found than there must be."""
    names = "they are called mergegate.yaml or *.mergegate.yaml"
    if not found:
        return f"no gate file found; {names}"
    listed = ", ".join(file.as_posix() for file in found)
    return f"{len(found)} gates found, --require-gates {required} asks for more ({listed}); {names}"


def concerned(
    found: Mapping[Path, GateFileError | None],
    chosen: argparse.Namespace,
    baseline: Path | None,
) -> list[Path]:
    """Those that changes since ``--changed-since`` concern, all of them without it; says which
    are left out. Raises UsageError."""
    since = chosen.changed_since
    if since is None:
        return list(found)
    from pytest_mergegate.cli.changed_since import changes_since

    changes = changes_since(since, next(iter(found)).absolute().parent)
    moved = baseline is not None and changes.touch(baseline)
    kept = [file for file, refused in found.items() if moved or refused or changes.concern(file)]
    left_out = ", ".join(file.as_posix() for file in found if file not in kept)
    if chosen.quiet == 0 and not kept:
        looked_at = f"({len(found)} gate{'s' * (len(found) != 1)} looked at)"
        none = f"no gate is concerned by the changes since {since} {looked_at}"
        say([f"{none}: left out {left_out}"])
    elif chosen.quiet == 0 and left_out:
        say([f"not concerned by the changes since {since}, and left out: {left_out}"])
    return kept
