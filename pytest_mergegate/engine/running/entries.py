"""Cache entries: safetensors files that carry their own name and a checksum over every byte.

The name, not the key: a key holds whole inputs, which may be too long for a header, or private.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]
    Key = Mapping[str, Any]

_BLANK = b"0" * 64
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')
_LARGEST_HEADER = 1 << 24


class Corrupt(Exception):
    """An entry that is not what was written under its key."""


def key_text(key: Key) -> str:
    """``key`` in its one spelling."""
    return json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(key: Key) -> str:
    """The name of an entry, in hexadecimal."""
    return hashlib.sha256(key_text(key).encode()).hexdigest()


def pack(key: Key, arrays: Arrays) -> bytes:
    """The file of an entry."""
    metadata = {"checksum": _BLANK.decode(), "name": digest(key)}
    blank = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    found = _CHECKSUM.search(blank, 0, 8 + _header_size(blank))
    assert found is not None
    return _with_checksum(blank, found, hashlib.sha256(blank).hexdigest().encode())


def unpack(key: Key, file: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an entry. Raises Corrupt unless it is ``pack(key, ...)`` to the last bit."""
    if len(file) < 8 or not _header_size(file) <= min(len(file) - 8, _LARGEST_HEADER):
        raise Corrupt("it is cut short")
    found = _CHECKSUM.search(file, 0, 8 + _header_size(file))
    if found is None:
        raise Corrupt("it has no checksum")
    if hashlib.sha256(_with_checksum(file, found, _BLANK)).hexdigest().encode() != found[1]:
        raise Corrupt("its checksum does not fit")
    if _name(file) != digest(key):
        raise Corrupt("it belongs to another key")
    try:
        return dict(load(file))
    except (SafetensorError, ValueError, KeyError) as error:  # written, but not by this module
        raise Corrupt(f"it is no safetensors file, {error}") from None


def _name(file: bytes) -> object:
    try:
        return json.loads(file[8 : 8 + _header_size(file)])["__metadata__"]["name"]
    except (ValueError, LookupError, TypeError, RecursionError):  # likewise
        return None


def _header_size(file: bytes) -> int:
    return int.from_bytes(file[:8], "little")


def _with_checksum(file: bytes, found: re.Match[bytes], checksum: bytes) -> bytes:
    return file[: found.start(1)] + checksum + file[found.end(1) :]
