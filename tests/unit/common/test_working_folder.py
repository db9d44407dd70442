"""Whoever works in another folder for a while comes back to the one of before."""

import os
from pathlib import Path

import pytest

from pytest_mergegate.common.working_folder import apart, working_in


def test_comes_back(tmp_path: Path) -> None:
    before = Path.cwd()
    with apart() as folder:
        assert Path.cwd() == folder
        assert list(folder.iterdir()) == []
    assert Path.cwd() == before
    assert not folder.exists()
    with pytest.raises(FileNotFoundError), working_in(tmp_path / "missing"):
        pass
    assert Path.cwd() == before


@pytest.mark.skipif(os.chdir not in os.supports_fd, reason="Windows removes no folder in use")
@pytest.mark.parametrize("inside", [False, True], ids=["before", "meanwhile"])
def test_comes_back_to_a_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    was = place.stat()
    descriptors = len(list(Path("/dev/fd").iterdir()))
    if not inside:
        place.rmdir()
    with working_in(tmp_path):
        assert Path.cwd() == tmp_path.resolve()
        if inside:
            place.rename(tmp_path / "moved")
    assert os.path.samestat(Path().stat(), was)
    assert len(list(Path("/dev/fd").iterdir())) == descriptors
