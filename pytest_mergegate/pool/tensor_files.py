"""Safetensors files: headers, finiteness and fingerprints, without torch."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from pytest_mergegate.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_INTEGERS = {"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """What a safetensors header says of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    """In safetensors' names: ``F32``, ``BF16``, ..."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class TensorScan:
    """What a look at every element of a file found, by tensor name."""

    non_finite: frozenset[str]
    """Tensors with a NaN or an infinity."""
    zero: frozenset[str]
    """Tensors in which every element is zero."""


def read_headers(path: Path, *, expert: str | None = None) -> dict[str, TensorHeader]:
    """Name to header of every tensor in a safetensors file. Raises PoolError."""
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return {
                name: TensorHeader(shape=tuple(s.get_shape()), dtype=str(s.get_dtype()))
                for name, s in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, expert, error) from None


def scan_tensors(path: Path, *, expert: str) -> TensorScan:
    """Look at every element of a safetensors file, once.

    Raises PoolError for an unreadable file and for element types that cannot be checked.
    """
    try:
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, expert, error) from None
    non_finite: list[str] = []
    zero: list[str] = []
    for name, tensor in tensors:
        finite, anything = _look(tensor["dtype"], tensor["data"], name, path, expert)
        if not finite:
            non_finite.append(name)
        if not anything:
            zero.append(name)
    return TensorScan(non_finite=frozenset(non_finite), zero=frozenset(zero))


def _look(dtype: str, data: bytes, name: str, path: Path, expert: str) -> tuple[bool, bool]:
    """Whether all elements are finite, and whether any is not zero."""
    if dtype in _FLOATS:
        floats = np.frombuffer(data, dtype=_FLOATS[dtype])
        return bool(np.isfinite(floats).all()), bool(floats.any())
    if dtype == "BF16":  # numpy has no such type: look at the exponent, and past the sign
        bits = np.frombuffer(data, dtype="<u2")
        return not bool(((bits & 0x7F80) == 0x7F80).any()), bool((bits & 0x7FFF).any())
    if dtype in _INTEGERS:
        return True, any(data)
    raise PoolError(
        f"tensor {name!r} is stored as {dtype}, which cannot be checked or merged",
        expert=expert,
        where=path.name,
        fix="save the adapter in float32, float16 or bfloat16",
    )


def checkpoint_files(directory: Path) -> list[Path]:
    """The safetensors files of a full checkpoint, single or sharded. Raises PoolError."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
            return [directory / name for name in names]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise PoolError(f"the shard index is malformed ({error})", where=str(index)) from None
    pickles = sorted(directory.glob("*.bin")) + sorted(directory.glob("*.pt"))
    held = (
        f"holds {pickles[0].name}, a pickle, which is never loaded" if pickles else "has no weights"
    )
    raise PoolError(
        f"the checkpoint {directory.name}/ {held}",
        where=directory.name,
        fix="save it as safetensors: model.save_pretrained(...)",
    )


def fingerprint(files: Iterable[Path]) -> str:
    """``sha256:`` over the names and contents of ``files``; independent of their order."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.name):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def _unreadable(path: Path, expert: str | None, error: Exception) -> PoolError:
    return PoolError(
        f"{path.name} is not a readable safetensors file ({error})",
        expert=expert,
        where=str(path.parent.name) + "/" + path.name,
        fix="save or download it again; it may be truncated, or a Git LFS pointer",
    )
