"""Files with several YAML documents, each a gate of its own: ``merge.yml#2`` is the second."""

import os
import re
from pathlib import Path

_DOCUMENT = re.compile(r"(.+\.ya?ml)#([1-9]\d{0,3})", re.IGNORECASE)


def in_document(path: Path) -> tuple[Path, int | None]:
    """The file, and which of its documents ``path`` means; None where it says nothing of that."""
    match = _DOCUMENT.fullmatch(path.name)
    if match is None or os.path.lexists(path):  # a file may be called so
        return path, None
    return path.with_name(match[1]), int(match[2])


def file_name(gate: str) -> str:
    """The file of a gate as a report calls it."""
    match = _DOCUMENT.fullmatch(gate)
    return match[1] if match else gate


def document(path: Path, number: int) -> Path:
    """How the ``number``-th document of a file is called, counted from 1."""
    return path.with_name(f"{path.name}#{number}")
