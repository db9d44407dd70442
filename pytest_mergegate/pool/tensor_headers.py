"""Headers of safetensors files from strangers: checked in full before any library reads them.

The library alone would not do: it takes a name that is given twice, headers of 100 MB and shapes
that no array can have, and its errors name no tensor.
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import label, open_regular, parse_json
from pytest_mergegate.common.plain_text import shown

MOST_TENSORS = 200_000
_HEADER_LIMIT = 32 << 20
_DIMENSIONS = 16
_NAME_LENGTH = 500
_SPAN = 1 << 44
"""Elements, those of empty dimensions left out of the product."""
LFS = b"version https://git-lfs"
# of a tensor's entry: one brace, two brackets, four commas and those of its shape
_MARKS = MOST_TENSORS * 12
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """What a safetensors header says of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    """In safetensors' names: ``F32``, ``BF16``, ..."""
    start: int
    """Offset in the file of its first byte, row after row, little-endian."""
    stop: int
    """Offset in the file behind its last byte."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it holds numbers that can be checked and merged, not integers or codes."""
        return self.dtype in _FLOATS


def read_headers(path: Path, *, expert: str | None = None) -> dict[str, TensorHeader]:
    """Name to header of every tensor in a safetensors file.

    Raises PoolError (MG001) for anything but a regular file whose header is small, well-formed
    and free of duplicates, whose tensors lie side by side and fill the file, and which the
    safetensors library takes too.
    """
    try:
        with open_regular(path, expert=expert) as file:
            headers = _headers(file)
        with safe_open(path, framework="np") as library:
            if set(library.keys()) != set(headers):
                raise _Unsound("its header can be read in two ways")
    except (_Unsound, SafetensorError, OSError, ValueError) as error:
        what = f"{shown(path.name)} is not a readable safetensors file ({shown(str(error), 240)})"
        fix = "save or download it again as safetensors"
        if LFS.decode() in str(error):
            fix = "fetch it with git lfs pull"
        raise PoolError(what, expert=expert, where=label(path), fix=fix) from None
    return headers


class _Unsound(Exception):
    """Why a file is no sound safetensors file."""


def _headers(file: BinaryIO) -> dict[str, TensorHeader]:
    size = file.seek(0, 2)
    file.seek(0)
    begins = file.read(len(LFS))
    if begins == LFS:
        raise _Unsound(f"it begins with {LFS.decode()!r}: a Git LFS pointer, not the file itself")
    if size < 8:
        raise _Unsound(f"it has only {size} bytes; it is empty or truncated")
    length = int.from_bytes(begins[:8], "little")
    if length > min(_HEADER_LIMIT, size - 8):
        if begins.startswith((b"PK\3\4", b"\x80")):
            raise _Unsound("it is a pickle, or a zip of them, which is never loaded")
        raise _Unsound(
            f"its header would be {length} bytes long, of {size} bytes in all; it is truncated, "
            f"no safetensors, or over the limit of {_HEADER_LIMIT >> 20} MiB"
        )
    file.seek(8)
    entries = _parse(file.read(length))
    entries.pop("__metadata__", None)  # the library checks it; nothing here reads it
    if len(entries) > MOST_TENSORS:
        raise _Unsound(f"it holds {len(entries)} tensors; {MOST_TENSORS} are the limit")
    headers = {name: _header(name, entry, 8 + length) for name, entry in entries.items()}
    _check_layout(headers, 8 + length, size)
    return headers


def _parse(data: bytes) -> dict[str, Any]:
    if not data.startswith(b"{"):
        raise _Unsound("its header does not start with a brace")
    if sum(data.count(mark) for mark in (b"{", b"[", b",")) > _MARKS:
        raise _Unsound("its header has too many entries")
    try:
        parsed = parse_json(data)
    except json.JSONDecodeError as error:
        raise _Unsound(f"its header is not JSON: {error.msg} at byte {error.pos}") from None
    except RecursionError:
        raise _Unsound("its header is nested too deeply") from None
    except ValueError as error:
        raise _Unsound(f"its header is malformed: {error}") from None
    if not isinstance(parsed, dict):
        raise _Unsound("its header is not a JSON object")
    return parsed


def _header(name: str, entry: object, data_start: int) -> TensorHeader:
    called = f"tensor '{shown(name)}'"
    if len(name) > _NAME_LENGTH or not name.isprintable():
        raise _Unsound(f"'{shown(name)}' is no name of a tensor")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _Unsound(f"{called} does not have just a dtype, a shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _Unsound(f"{called} has the unknown element type '{shown(str(dtype), 40)}'")
    # no numpy has room for a tensor without elements whose other dimensions are beyond all bounds
    if not _are_sizes(shape) or len(shape) > _DIMENSIONS or math.prod(filter(None, shape)) > _SPAN:
        raise _Unsound(f"{called} has the impossible shape {shown(str(shape), 80)}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Unsound(f"{called} has the impossible data_offsets {shown(str(offsets), 80)}")
    start, stop = offsets
    if math.prod(shape) * _BITS[dtype] != 8 * (stop - start):
        raise _Unsound(f"{called} is {dtype} {shape}, which is not {stop - start} bytes long")
    start, stop = data_start + start, data_start + stop
    return TensorHeader(shape=tuple(shape), dtype=dtype, start=start, stop=stop)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _check_layout(headers: Mapping[str, TensorHeader], data_start: int, size: int) -> None:
    """Tensors lie side by side, from the end of the header to the end of the file."""
    inside = sorted(headers.items(), key=lambda item: (item[1].start, item[1].stop))
    if inside and inside[0][1].start != data_start:
        raise _Unsound(f"there are bytes before tensor '{shown(inside[0][0])}' in no tensor")
    for (one, a), (other, b) in itertools.pairwise(inside):
        if a.stop != b.start:
            relation = "overlap" if a.stop > b.start else "leave a gap between them"
            raise _Unsound(f"tensors '{shown(one)}' and '{shown(other)}' {relation}")
    end = inside[-1][1].stop if inside else data_start
    if end > size:
        raise _Unsound(f"it is truncated: {size} of {end} bytes")
    if end < size:
        raise _Unsound(f"{size - end} bytes at its end belong to no tensor")
