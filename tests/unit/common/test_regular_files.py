"""No more of a file is read than its reader has a use for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.files import regular_files
from pytest_mergegate.common.files.regular_files import open_regular, read_at_most, read_own

if TYPE_CHECKING:
    from pathlib import Path


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
    monkeypatch.setattr(regular_files, "_OWN_LIMIT", 1 << 20)
    assert read_own(file) == file.read_bytes()
    file.write_bytes(b"{}" * 512 * 1024 + b" ")
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_own(file)
