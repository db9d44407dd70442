"""Where the gate file goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import GateError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "mergegate.yaml"
_OF_EXPERTS = frozenset(
    ("adapters", "adapter", "loras", "lora", "experts", "checkpoints", "models")
)
_BESIDE = ("base", "data", "examples")


def gate_path(folder: Path, output: Path | None, *, force: bool) -> Path:
    """The file to write: beside a folder of nothing but experts, else in it.

    Raises GateError for one that is there, unless ``force``, and for a name that no gate has.
    """
    if output is None:
        path = (folder.parent if _is_part(folder) else folder) / NAME
    else:
        path = output / NAME if output.is_dir() else output
    if path.name != NAME and not path.name.endswith(f".{NAME}"):
        raise GateError(
            f"--output: {path.name} is no name of a gate file",
            fix=f"call it {NAME} or SOMETHING.{NAME}; pytest finds no other",
        )
    if path.is_symlink() or path.is_dir() or (path.exists() and not path.is_file()):
        raise GateError(f"{path} is there already, and is no regular file", fix="remove it")
    if path.exists() and not force:
        raise GateError(
            f"{path} is there already",
            fix="--force overwrites it, --output PATH writes another",
        )
    if not path.absolute().parent.is_dir():
        raise GateError(f"there is no folder {path.parent}", fix="create it first")
    return path


def _is_part(folder: Path) -> bool:
    """Whether a folder is a part of a project that its parent holds the rest of."""
    if folder.resolve().name.lower() in _OF_EXPERTS:
        return True
    around = folder.resolve().parent
    own = any((folder / name).is_dir() for name in _BESIDE)
    return not own and any((around / name).is_dir() for name in _BESIDE)
