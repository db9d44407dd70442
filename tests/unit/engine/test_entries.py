"""An entry is what was written under its key, to the last bit, or Corrupt."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pytest_mergegate.common.plain import dump, load
from pytest_mergegate.engine.running.cache import (
    Corrupt,
    digest,
    key_text,
    pack,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

KEY = {"kind": "states", "inputs": ["a:b=", "ü\n\"'"], "positions": "last"}
OTHER = KEY | {"positions": "answer"}
DTYPES = st.sampled_from(
    [np.dtype(t) for t in ("?", "<i8", "<i4", "<u1", "<f2", "<f4", "<f8", ">f4", ">i8")]
)
ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8).filter("__metadata__".__ne__),
    DTYPES.flatmap(lambda d: arrays_of.arrays(d, arrays_of.array_shapes(min_dims=0, min_side=0))),
    max_size=4,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.dictionaries(
    st.text(), PLAIN.filter(lambda plain: "Infinity" not in json.dumps(plain)), max_size=4
)


def entry(key: Mapping[str, Any] = KEY) -> bytes:
    """A small one."""
    return pack(key, {"rows": np.arange(6, dtype=np.float32), "lengths": np.array([4, 2])})


def sealed(header: bytes, data: bytes = b"") -> bytes:
    """A file whose checksum fits, whatever it holds; ``header`` says CHECKSUM where it stands."""
    header = header.replace(b"CHECKSUM", b'"checksum":"' + b"0" * 64 + b'"')
    blank = len(header).to_bytes(8, "little") + header + data
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def refused(file: bytes, key: Mapping[str, Any] = KEY) -> str:
    with pytest.raises(Corrupt) as raised:
        unpack(key, file)
    return str(raised.value)


@given(key=KEYS, arrays=ARRAYS)
def test_arrays_come_back(key: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    back = unpack(key, pack(key, arrays))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].shape == array.shape
        assert back[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back[name], array)


@given(PLAIN)
def test_plain_data_comes_back(data: Any) -> None:
    assert load(object, unpack(KEY, pack(KEY, dump(object, data)))) == data


def test_numbers_that_are_none_come_back() -> None:
    arrays = {"rows": np.array([np.nan, np.inf, -np.inf, -0.0], dtype=np.float32)}
    assert unpack(KEY, pack(KEY, arrays))["rows"].tobytes() == arrays["rows"].tobytes()
    numbers = [float("nan"), float("-inf")]
    assert repr(load(object, dump(object, numbers))) == "[nan, -inf]"


def test_strided_arrays_come_back() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {"transposed": array.T, "every other": array[::2, ::-3]}
    for name, back in unpack(KEY, pack(KEY, views)).items():
        np.testing.assert_array_equal(back, views[name])


def test_a_key_has_one_spelling() -> None:
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
    distinct = [{"a": 1}, {"a": "1"}, {"a": 1.0}, {"a": True}, {"a": None}, {"a": [1]}, {"b": 1}]
    assert len({digest(key) for key in distinct}) == len(distinct)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_key_is_of_numbers(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        key_text({"scale": number})


def test_a_key_may_be_longer_than_any_header() -> None:
    key = {"inputs": ["\N{CJK UNIFIED IDEOGRAPH-4E00}" * (1 << 22)]}
    assert unpack(key, entry(key)).keys() == {"rows", "lengths"}


def test_a_key_that_looks_like_a_checksum() -> None:
    key = {"checksum": "0" * 64, "text": '"checksum":"' + "f" * 64 + '"'}
    names = ['"checksum":"' + "f" * 64 + '"', "checksum", "0" * 64]
    arrays = {name: np.arange(3) for name in names}
    assert unpack(key, pack(key, arrays)).keys() == arrays.keys()


def test_inputs_are_not_written_out() -> None:
    assert b"secret" not in pack({"inputs": ["secret"]}, {"rows": np.arange(3)})


def test_every_flipped_bit_is_seen() -> None:
    file = entry()
    for bit in range(8 * len(file)):
        flipped = bytearray(file)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(bytes(flipped))


def test_every_truncation_is_seen() -> None:
    file = entry()
    for length in range(len(file)):
        refused(file[:length])
        refused(file[length + 1 :])


@given(data=st.data())
def test_any_damage_is_seen(data: st.DataObject) -> None:
    file = entry()
    start = data.draw(st.integers(0, len(file)))
    stop = data.draw(st.integers(start, len(file)))
    spoiled = file[:start] + data.draw(st.binary(max_size=32)) + file[stop:]
    if spoiled != file:
        refused(spoiled)


@given(st.binary(max_size=400))
def test_what_is_no_entry_at_all(file: bytes) -> None:
    refused(file)
    refused(len(file).to_bytes(8, "little") + file)


@pytest.mark.parametrize(
    "tail", [b"\0", b"\n", b"0" * 64, entry()], ids=["zero", "newline", "zeros", "entry"]
)
def test_appended_bytes_are_seen(tail: bytes) -> None:
    refused(entry() + tail)


def test_another_key_s_file_is_seen() -> None:
    assert unpack(OTHER, entry(OTHER))
    assert refused(entry(OTHER)) == "it belongs to another key"
    assert refused(entry(KEY), OTHER) == "it belongs to another key"


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 1 << 20])
def test_zeros_are_seen(size: int) -> None:
    refused(bytes(size))


@pytest.mark.parametrize("length", [1 << 24, (1 << 24) + 1, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_a_huge_header_is_not_believed(length: int) -> None:
    refused(length.to_bytes(8, "little") + entry()[8:])


NAME = b'"name":"' + digest(KEY).encode() + b'"'


@pytest.mark.parametrize(
    "header",
    [
        b"{CHECKSUM}",
        b'{"__metadata__":[CHECKSUM]}'.replace(b"CHECKSUM", b'{CHECKSUM,"name":1}'),
        b'{"__metadata__":{CHECKSUM}}',
        b'{"__metadata__":{CHECKSUM,"name":{}}}',
        b"CHECKSUM",
        b"[CHECKSUM",
        b"\xff{CHECKSUM}",
        b"[" * 100_000 + b"CHECKSUM",
        b'{"__metadata__":{CHECKSUM,' + NAME + b'},"x":{}}',
        b'{"__metadata__":{CHECKSUM,' + NAME + b'},"x":{"dtype":"F4","shape":[1]}}',
        b'{"__metadata__":{CHECKSUM,'
        + NAME
        + b'},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{CHECKSUM,' + NAME + b',"more":1}}',
    ],
)
def test_a_checksum_that_fits_proves_no_more_than_that(header: bytes) -> None:
    assert not re.search("checksum", refused(sealed(header)))


def test_the_check_above_seals_what_can_be_read() -> None:
    assert unpack(KEY, sealed(b'{"__metadata__":{CHECKSUM,' + NAME + b"}}")) == {}


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2"])
def test_numbers_that_numpy_lacks(dtype: str) -> None:
    width = 2 if dtype == "BF16" else 1
    tensor = f'"x":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,{width}]}}'.encode()
    file = sealed(b'{"__metadata__":{CHECKSUM,' + NAME + b"}," + tensor + b"}", bytes(width))
    with contextlib.suppress(Corrupt):
        unpack(KEY, file)
