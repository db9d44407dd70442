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
from pytest_mergegate.common.files.reading import open_regular
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.checkpoints import read_checkpoint
from pytest_mergegate.pool.fingerprints import content_hash
from pytest_mergegate.pool.references import (
    Located,
    cached_repository,
    in_ci,
    last_part,
    names_repository,
    unquantised,
)
from pytest_mergegate.pool.tensor_readers import FloatArray
from pytest_mergegate.pool.tensors import StoredTensors

Identity = Literal["same", "quantised", "other", "unknown"]
_DRIVE = re.compile(r"[A-Za-z]:")
_SNAPSHOT = re.compile(r"snapshots[/\\]([0-9a-f]{40})(?![^/\\])")
_ABBREVIATED = re.compile(r"[0-9a-f]{7,40}")
_BLOCK = 1 << 16
_known: dict[tuple[tuple[str, ...], ...], Identity] = {}
"""What was found in this process, by the content of both."""


def identify(named: str, base: Base, near: Path) -> Identity:
    """What the base that an adapter in folder ``near`` calls ``named`` is to the gate's.

    ``same``: one folder, the same weights (also in other shards or another precision), one
    repository of the hub in a revision that may be the gate's, or two that are known to hold the
    same. ``quantised``: a quantised copy
    of it, by its name. ``other``: both are at hand, and differ. Nothing is downloaded, and in CI
    nothing outside of the repository is read.
    """
    own = base.origin or base.path
    theirs = _repository(named)
    ours = base.located.repository
    if theirs and ours and _known_as(theirs) == _known_as(ours):
        wanted = named_revision(named)
        # commits of two repositories say nothing of one another
        if wanted is None or theirs.lower() != ours.lower() or may_be(base.located, wanted):
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


def named_revision(named: str) -> str | None:
    """The branch, tag or commit in ``org/name@revision``, or in the path of a snapshot."""
    if cached_repository(named) is not None:
        found = _SNAPSHOT.search(named)
        return found[1] if found else None
    return named.partition("@")[2] or None


def may_be(located: Located, wanted: str) -> bool:
    """Whether a revision may be the one that lies here."""
    if located.repository is None:
        return True
    if _ABBREVIATED.fullmatch(wanted):
        return located.commit is None or located.commit.startswith(wanted)
    # a branch may well point to the commit
    return wanted == (located.revision or "main") or located.pinned


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
        both = tuple(tuple(sorted(map(content_hash, t.files))) for t in (theirs, stored))
        if both[0] == both[1]:
            return "same"
        if both not in _known:
            _known[both] = _told_apart(theirs, stored)
        return _known[both]
    except (PoolError, OSError):
        return "unknown"


def _told_apart(theirs: StoredTensors, stored: StoredTensors) -> Identity:
    """What every number of the two tells; none is held for longer than it is compared."""
    if any(not theirs[name].is_float for name in theirs if name.endswith(".weight")):
        return "quantised"
    if {n: theirs[n].shape for n in theirs} != {n: stored[n].shape for n in stored}:
        return "other"
    found: Identity = "same"
    for name in stored:
        if not _has_bytes_of(name, theirs, stored) and (told := _numbers(name, theirs, stored)):
            if told == "other":
                return told
            found = told
    return found


def _has_bytes_of(name: str, one: StoredTensors, other: StoredTensors) -> bool:
    """Whether a tensor is stored alike, to the last byte."""
    a, b = one[name], other[name]
    if a.dtype != b.dtype or a.stop - a.start != b.stop - b.start:
        return False
    with (
        open_regular(one.file_of(name), expert=None) as left,
        open_regular(other.file_of(name), expert=None) as right,
    ):
        left.seek(a.start)
        right.seek(b.start)
        sizes = (min(_BLOCK, a.stop - at) for at in range(a.start, a.stop, _BLOCK))
        return all(left.read(size) == right.read(size) for size in sizes)


def _numbers(name: str, one: StoredTensors, other: StoredTensors) -> Identity | None:
    """What a tensor's numbers tell, all of them; None: they are the same, or one of the two is
    the other rounded to its precision. ``unknown``: they are as near as another way of rounding
    would have them, and as a short fine-tuning might."""
    if not (one.is_float(name) and other.is_float(name)):
        return "other"
    types = one[name].dtype, other[name].dtype
    near = types[0] != types[1]
    exact = [True, near]
    for a, b in zip(one.blocks(name, _BLOCK), other.blocks(name, _BLOCK), strict=True):
        exact[0] = exact[0] and _are_same(a, _rounded(b, types[0]) if near else b)
        exact[1] = exact[1] and _are_same(_rounded(a, types[1]), b)
        # bfloat16 keeps 8 bits, float16 11 of numbers that are not tiny
        if not any(exact) and not (near and np.allclose(a, b, 2**-7, 1e-6, equal_nan=True)):
            return "other"
    return None if any(exact) else "unknown"


def _are_same(a: FloatArray, b: FloatArray) -> bool:
    return np.array_equal(a, b) or np.array_equal(a, b, equal_nan=True)


def _rounded(numbers: FloatArray, dtype: str) -> FloatArray:
    """Numbers as ``dtype`` has them, rounded to nearest, ties to even, as torch does."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return numbers.astype(np.float16).astype(np.float32)
    if dtype != "BF16":
        return numbers
    bits = numbers.view(np.uint32)
    up = (bits >> 16 & 1) + np.uint32(0x7FFF)
    kept = np.where(np.isfinite(numbers), bits + up, bits)
    return (kept & np.uint32(0xFFFF0000)).view(np.float32)
