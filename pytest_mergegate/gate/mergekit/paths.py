"""Where the paths of a mergekit configuration lead: beside the file, or, as mergekit reads them,
from the working folder."""

import os
from pathlib import Path

from pytest_mergegate.common.files.places import placed


def found_at(root: Path, text: str) -> Path | None:
    """Where ``text`` leads on this machine; None where nothing is there, or it is no path."""
    try:
        place = placed(root, text)
        return place.resolve() if place.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def is_folder(root: Path, text: str) -> bool:
    """Whether ``text`` is a folder on this machine."""
    place = found_at(root, text)
    return place is not None and place.is_dir()


def same_model(one: str, other: str, root: Path) -> bool:
    """Whether two paths or repositories are the same."""
    place = found_at(root, one)
    return one == other or (place is not None and place == found_at(root, other))


def from_either(root: Path, text: str) -> str:
    """``text`` as it leads from ``root``: mergekit takes a relative path from the working folder,
    which it is where nothing lies beside the file."""
    path = Path(text)
    if text.startswith("~") or path.is_absolute() or found_at(root, text) is not None:
        return text
    there = found_at(Path.cwd(), text)
    return text if there is None else Path(os.path.relpath(Path.cwd() / text, root)).as_posix()
