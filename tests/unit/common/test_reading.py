"""Files from strangers: data within limits, or one clear error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files import reading
from pytest_mergegate.common.files.reading import (
    DEPTH,
    open_regular,
    read_at_most,
    read_json_object,
    read_own,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_reads_an_object(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('\ufeff{"r": 4, "x": [1.5, null, {"ü": -3}]}', encoding="utf-8")
    assert read_json_object(file, expert=None) == {"r": 4, "x": [1.5, None, {"ü": -3}]}
    file.write_text('{"a": ' + "[" * (DEPTH - 1) + "]" * (DEPTH - 1) + "}")
    assert read_json_object(file, expert=None)


BAD = {
    "cut": (b'{"r": 4,\n', "not JSON", "b/c.json:2"),
    "empty": (b"", "not JSON", "b/c.json:1"),
    "two": (b"{}\n{}", "not JSON", "b/c.json:2"),
    "list": (b"[]", "not a JSON object", "b/c.json"),
    "text": (b'"x"', "not a JSON object", "b/c.json"),
    "not UTF-8": (b'{"a":\n "\xff"}', "not UTF-8", "b/c.json:2"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8", "b/c.json:1"),
    "twice": (b'{"x": {"a": 1, "a": 2}}', "'a' is given twice", "b/c.json"),
    "NaN": (b'{"a": NaN}', "NaN is no number", "b/c.json"),
    "infinity": (b'{"a": [-Infinity]}', "-Infinity is no number", "b/c.json"),
    "deep list": (b'{"a": ' + b"[" * 100_000, "nested too deeply", "b/c.json"),
    "deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply", "b/c.json"),
    "a little deep": (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "too deeply", "b/c.json"),
    "huge integer": (b'{"a": ' + b"1" * 5000 + b"}", "5000 digits", "b/c.json"),
    "large": (b'{"a": "' + b"x" * (1 << 20) + b'"}', "larger than 1 MiB", "b/c.json"),
}


@pytest.mark.parametrize(("content", "says", "where"), BAD.values(), ids=BAD)
def test_refused(tmp_path: Path, content: bytes, says: str, where: str) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(content)
    with pytest.raises(PoolError) as caught:
        read_json_object(file, expert="b", where="b/c.json", limit=1 << 20)
    error = caught.value
    assert says in error.what
    assert (error.code, error.expert, error.where) == ("MG001", "b", where)
    assert str(error).isprintable()


def test_numbers_beyond_a_float_stay_numbers(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"a": 1e999, "b": ' + "9" * 400 + "}")
    found = read_json_object(file, expert=None)
    assert found["a"] == float("inf")  # for those who use the number to refuse
    assert found["b"] == int("9" * 400)


def test_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="No such file"):
        read_json_object(tmp_path / "none.json", expert=None)
    os.mkfifo(tmp_path / "fifo.json")
    with pytest.raises(PoolError, match="FIFO"):
        read_json_object(tmp_path / "fifo.json", expert=None)


def test_read_at_most(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    for most, found in ((3, b"1234"), (5, b"12345"), (1 << 40, b"12345")):
        with open_regular(file, expert=None) as opened:
            assert read_at_most(opened, most) == found


def test_read_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(b"{}" * 512 * 1024)
    assert read_own(file) == file.read_bytes()
    monkeypatch.setattr(reading, "_OWN_LIMIT", 1 << 20)
    assert read_own(file) == file.read_bytes()
    file.write_bytes(b"{}" * 512 * 1024 + b" ")
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_own(file)
