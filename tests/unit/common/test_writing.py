"""Files that are written while other processes remove them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.files.writing import Unwritten, write_file

if TYPE_CHECKING:
    import os


def test_a_file_that_is_removed_meanwhile_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may evict an entry of the cache between any two looks at it."""
    path, look = tmp_path / "entry", Path.lstat
    path.write_text("before")

    def removing(self: Path) -> os.stat_result:
        if self == path:
            path.unlink(missing_ok=True)
        return look(self)

    monkeypatch.setattr(Path, "lstat", removing)
    write_file(path, "after")
    assert path.read_text() == "after"


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "entry").mkdir()
    with pytest.raises(Unwritten, match="it is a folder"):
        write_file(tmp_path / "entry", "after")
