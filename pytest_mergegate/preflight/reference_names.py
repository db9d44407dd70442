"""What a model is called, whatever folder or cache it lies in."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_mergegate.pool.base import Base

_CACHED = re.compile(r"models--(?:.+--)?(?P<name>[^-](?:(?!--).)*)")


def last_part(reference: str) -> str:
    """The model's name in lower case: of a path, a repository or a snapshot in the hub's cache."""
    without_revision = reference if PurePath(reference).is_absolute() else reference.split("@")[0]
    path = PurePath(without_revision.rstrip("/\\").replace("\\", "/"))
    for part in path.parts:
        if (match := _CACHED.fullmatch(part[:200])) is not None:
            return match["name"].lower()
    return path.name.lower()


def base_names(base: Base) -> frozenset[str]:
    """Every name that the gate's base is known by."""
    known = (base.reference, str(base.path), base.located.repository, base.original_name)
    return frozenset(last_part(name) for name in known if isinstance(name, str) and name)
