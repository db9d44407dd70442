"""Paths as gate files write them, and as they are found."""

from __future__ import annotations

import os
from pathlib import Path


def placed(root: Path, written: str) -> Path:
    """Where a path that a user wrote lies; only one that begins with ``~`` means a home folder.

    Raises RuntimeError where there is no such home.
    """
    # pathlib would take the folder ./~ for a home too
    return root / (Path(written).expanduser() if written.startswith("~") else written)


def as_found(path: Path | str) -> str:
    """How a gate names a path that was found, not written: a folder called ``~`` is no home."""
    text = Path(path).as_posix()
    return f"./{text}" if text.startswith("~") else text


def is_gate_name(name: str) -> bool:
    """Whether a file of this name is a gate file by convention."""
    return name == "mergegate.yaml" or name.endswith(".mergegate.yaml")


def under(folder: Path, place: Path) -> bool:
    """Whether ``place`` lies in ``folder`` or is it, links and ``..`` followed."""
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder))
