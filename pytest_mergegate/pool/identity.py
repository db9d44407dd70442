"""Whether the base that an adapter names is the gate's: by content, else by what names can tell.

A name by itself proves nothing and refutes nothing: folders move, are copied, and are overwritten.
"""

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.checkpoints import read_checkpoint
from pytest_mergegate.pool.fingerprints import content_hash
from pytest_mergegate.pool.references import (
    cached_repository,
    in_ci,
    last_part,
    names_repository,
    unquantised,
)
from pytest_mergegate.pool.tensors import StoredTensors

Identity = Literal["same", "quantised", "other", "unknown"]
_DRIVE = re.compile(r"[A-Za-z]:")
_SAMPLE = 1 << 14
"""Numbers of each tensor that are compared where the files are not equal."""


def identify(named: str, base: Base, near: Path) -> Identity:
    """What the base that an adapter in folder ``near`` calls ``named`` is to the gate's.

    ``same``: one folder, the same weights (also in other shards or another precision), one
    repository of the hub, or two that are known to hold the same. ``quantised``: a quantised copy
    of it, by its name. ``other``: both are at hand, and differ. Nothing is downloaded, and in CI
    nothing outside of the repository is read.
    """
    own = base.origin or base.path
    theirs = _repository(named)
    ours = base.located.repository
    if theirs and ours and _known_as(theirs) == _known_as(ours):
        return "same"
    for folder in _folders(named, base, own, near):
        found = _compared(folder, own)
        if found != "unknown":
            return found
    if (plain := unquantised(named.partition("@")[0])) is None:
        return "unknown"
    known = {_known_as(name) for name in (ours, base.config.get("_name_or_path")) if name}
    alike = last_part(plain) in base.names or _known_as(plain) in known
    return "quantised" if alike else "unknown"


def _repository(named: str) -> str | None:
    """The repository of the hub that ``named`` means, by its form or as a snapshot of its cache."""
    if (cached := cached_repository(named)) is not None:
        return cached
    repository = named.partition("@")[0]
    return repository if names_repository(repository) else None


def _known_as(repository: object) -> str:
    """One name for all repositories that are known to hold the same weights, in lower case."""
    name = str(repository).partition("@")[0].lower()
    return _aliases().get(name, name)


@cache
def _aliases() -> dict[str, str]:
    text = files("pytest_mergegate.pool").joinpath("base_aliases.json").read_text("utf-8")
    groups: list[list[str]] = json.loads(text)
    return {name.lower(): group[0].lower() for group in groups for name in group}


def _folders(named: str, base: Base, own: Path, near: Path) -> list[Path]:
    """Where ``named`` may lie on this machine; most often nowhere, or where the base does."""
    path = Path(named.replace("\\", "/"))
    try:
        top = _shared_root(own, near)
        # a relative path is one from the folder in which it was trained
        places = [path] if path.is_absolute() else [up / path for up in near.parents]
        if path.is_absolute() and not in_ci():
            top = Path(path.anchor)
        places = [p for p in places if top is not None and p.resolve().is_relative_to(top)]
        seen = [own, *([] if Path(base.reference).is_absolute() else [path])]
        ends = [path, Path(base.reference)]
        alike = any(_ends_alike(end, whole) for end, whole in zip(ends, seen, strict=False))
        # org/name may be a repository
        is_path = not names_repository(named) and not _DRIVE.match(named)
        places += [own] if alike and is_path and not path.is_absolute() else []
        cached = None if in_ci() else _in_cache(named)
        return [p for p in (*places, *filter(None, [cached])) if (p / "config.json").is_file()]
    except (OSError, ValueError, RuntimeError):
        return []


def _ends_alike(path: Path, place: Path) -> bool:
    """Whether ``path`` is how ``place`` ends: one folder, seen from two others."""
    parts = path.parts
    return bool(parts) and place.parts[-len(parts) :] == parts


def _shared_root(one: Path, other: Path) -> Path | None:
    """The deepest folder around both, unless it is the root of all folders."""
    ours = set(one.resolve().parents)
    found = next((up for up in other.resolve().parents if up in ours), None)
    return found if found is not None and found != found.parent else None


def _in_cache(named: str) -> Path | None:
    repository, _, revision = named.partition("@")
    if not names_repository(repository):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    except Exception:  # a name of another form than the hub's
        return None
    return Path(file).parent if isinstance(file, str) else None


def _compared(folder: Path, own: Path) -> Identity:
    """The weights in ``folder`` against the base's."""
    if folder.resolve() == own.resolve():
        return "same"
    try:
        theirs, stored = read_checkpoint(folder), read_checkpoint(own)
        if sorted(map(content_hash, theirs.files)) == sorted(map(content_hash, stored.files)):
            return "same"
    except (PoolError, OSError):
        return "unknown"
    if any(not theirs[name].is_float for name in theirs if name.endswith(".weight")):
        return "quantised"
    if {n: theirs[n].shape for n in theirs} != {n: stored[n].shape for n in stored}:
        return "other"
    return "same" if all(_is_equal(name, theirs, stored) for name in stored) else "other"


def _is_equal(name: str, one: StoredTensors, other: StoredTensors) -> bool:
    """Whether a tensor has the same numbers, up to the rounding of one precision to another."""
    if not (one.is_float(name) and other.is_float(name)):
        return one[name].dtype == other[name].dtype
    a, b = one.sample(name, _SAMPLE), other.sample(name, _SAMPLE)
    if one[name].dtype == other[name].dtype:
        return np.array_equal(a, b, equal_nan=True)
    # bfloat16 keeps 8 bits, float16 11 of numbers that are not tiny
    return bool(np.allclose(a, b, rtol=2**-7, atol=1e-6, equal_nan=True))
