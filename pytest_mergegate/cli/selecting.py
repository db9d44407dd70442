"""Which gate files ``mergegate check`` runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.plain_text import say
from pytest_mergegate.gate.discovery import gates_below, refusals

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Mapping

    from pytest_mergegate.common.errors import GateFileError
    from pytest_mergegate.report.baseline.reading import Baseline


def find_gates(chosen: argparse.Namespace) -> dict[Path, GateFileError | None]:
    """Every gate file that was named, or lies in a folder that was; with why it must not run, where
    it lies among the data of strangers. Raises pytest.UsageError."""
    paths = chosen.paths
    if not paths:
        if chosen.changed_since is None:
            raise pytest.UsageError("name a gate file, or a folder of them")
        paths = [_repository()]
    found: dict[Path, GateFileError | None] = {}
    for path in paths:
        if path.is_dir():
            files = gates_below(path)
            here = path.absolute().is_relative_to(Path.cwd())
            found |= dict.fromkeys(files) | refusals(files, start=Path.cwd() if here else path)
        elif not path.exists():
            raise pytest.UsageError(f"there is no file or folder {path}")
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
    baseline: Baseline | None,
) -> list[Path]:
    """Those that changes since ``--changed-since`` concern, all of them without it; says which
    are left out. Raises pytest.UsageError."""
    if chosen.changed_since is None:
        return list(found)
    from pytest_mergegate.cli.changed_since import GitError, changes_since

    try:
        changes = changes_since(chosen.changed_since, next(iter(found)).absolute().parent)
    except GitError as error:
        raise pytest.UsageError(str(error)) from None
    moved = baseline is not None and changes.touch(baseline.path)
    kept = [file for file, refused in found.items() if moved or refused or changes.concern(file)]
    if chosen.quiet == 0:
        say(_told(found, kept, chosen.changed_since))
    return kept


def _told(found: Collection[Path], kept: Collection[Path], since: str) -> list[str]:
    looked_at = f"({len(found)} gate{'s' * (len(found) != 1)} looked at)"
    left_out = [file.as_posix() for file in found if file not in kept]
    if not kept:
        told = f"no gate is concerned by the changes since {since} {looked_at}"
        return [f"{told}: left out {', '.join(left_out)}"]
    if not left_out:
        return []
    return [f"not concerned by the changes since {since}, and left out: {', '.join(left_out)}"]


def _repository() -> Path:
    """The repository around the working directory, as a path from there where it is that."""
    from pytest_mergegate.cli.changed_since import GitError, repository

    try:
        top = repository(Path.cwd())
    except GitError as error:
        raise pytest.UsageError(str(error)) from None
    return Path() if top == Path.cwd() else top
