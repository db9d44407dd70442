"""Paths as gate files write them, and as they are found; and what lies in a folder."""

import os
from pathlib import Path

_APART = frozenset(("__pycache__", "build", "dist", "node_modules", "venv"))
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def placed(root: Path, written: str) -> Path:
    """Where a path that a user wrote lies; only one that begins with ``~`` means a home folder.

    Raises RuntimeError where there is no such home.
    """
    # pathlib would take the folder ./~ for a home too
    return root / (Path(written).expanduser() if written.startswith("~") else written)


def place_of(root: Path, reference: str) -> Path:
    """Where a reference would lie if it is a path; one to the hub lies nowhere."""
    try:
        return placed(root, reference)
    except (RuntimeError, ValueError):  # no such home
        return root / reference


def as_found(path: Path | str) -> str:
    """How a gate names a path that was found, not written: a folder called ``~`` is no home."""
    text = Path(path).as_posix()
    return f"./{text}" if text.startswith("~") else text


def is_gate_name(name: str) -> bool:
    """Whether a file of this name is a gate file by convention."""
    return name == "mergegate.yaml" or name.endswith(".mergegate.yaml")


def is_apart(folder: Path, *, hidden: bool = False) -> bool:
    """Whether pytest would not look into a folder: one that is built, installed, git's or, unless
    those count, ``hidden``."""
    name = folder.name
    if name in _APART or name == ".git" or (name.startswith(".") and not hidden):
        return True
    # not Path's exists, which raises for a path that is too long
    return os.path.exists(folder / "pyvenv.cfg")  # noqa: PTH110


def model_file_in(folder: Path) -> str | None:
    """The file that makes a folder an adapter or a checkpoint. Raises OSError."""
    names = set(os.listdir(folder))  # noqa: PTH208 - one call, where exists() takes several
    found = {name for name in names if name.startswith(("adapter_config.", "adapter_model."))}
    if not found and "config.json" in names:
        found = {name for name in names if name.endswith(_WEIGHTS)}
    return min(found, default=None)
