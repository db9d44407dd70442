"""Temporary files and shared places whose names can be foreseen, and files that are swapped."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from unit.history.registry.making import made

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files import writing
from pytest_mergegate.common.files.writing import (
    Unwritten,
    make_private_folder,
    open_to_append,
    write_file,
)
from pytest_mergegate.history.registry.appending import append_lines
from pytest_mergegate.testing import workers
from untrusted.checkouts import mergegate


@pytest.fixture
def repository(untouched: Path) -> Path:
    """The repository of these tests."""
    return untouched


@pytest.mark.parametrize(
    "name",
    [".mergegate.yaml.part", ".mergegate.yaml", ".mergegate.yaml.PID", "mergegate.yaml.tmp"],
)
def test_no_temporary_file_can_be_foreseen(
    repository: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(repository)
    waiting = repository / name.replace("PID", str(os.getpid()))
    waiting.symlink_to("../secret/secret.txt")
    assert mergegate("init", "adapters", "--force", "--no-check") in {0, 2}
    assert "adapters" in (repository / "mergegate.yaml").read_text()
    assert waiting.is_symlink()


def test_the_temporary_file_is_one_that_nobody_else_has_made(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even were its name foreseen."""
    monkeypatch.setattr(writing.secrets, "token_hex", lambda _: "foreseen")
    (repository / ".foreseen.part").symlink_to("../secret/secret.txt")
    with pytest.raises(Unwritten, match="File exists"):
        write_file(repository / "x", "x")
    assert not (repository / "x").exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "file"])
def test_what_is_swapped_while_it_is_opened(
    repository: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The check before opening holds for what was there then."""
    real, opened = writing._target, os.open

    def swapped(path: Path) -> Path:
        found = real(path)
        if kind == "link":
            found.symlink_to("../secret/secret.txt")
        elif kind == "fifo":
            os.mkfifo(found)
        return found

    def and_after(path: Path, *more: Any, **others: Any) -> int:
        number = opened(path, *more, **others)
        if kind == "file" and Path(path).name == "x":
            Path(path).unlink()
            os.close(opened(path, os.O_CREAT | os.O_WRONLY))
        return number

    monkeypatch.setattr(writing, "_target", swapped)
    monkeypatch.setattr(os, "open", and_after)
    with pytest.raises(Unwritten), open_to_append(repository / "x") as file:
        file.write(b"x")


@pytest.mark.parametrize("kind", ["link", "another's"])
def test_folders_in_shared_places_are_this_user_s(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = tmp_path / "shared"
    if kind == "link":
        place.symlink_to("secret")
    else:
        place.mkdir()
        monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(Unwritten, match="it is a link, or belongs to another user"):
        make_private_folder(place)
    monkeypatch.setattr(workers, "_directory", lambda _: place)
    with pytest.raises(Unwritten):
        workers.shared(None, "key", pytest.fail)  # type: ignore[arg-type]
    if kind == "link":
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        (tmp_path / f"pytest-mergegate-locks-{os.getuid()}").symlink_to("secret")
        with pytest.raises(GateError, match="belongs to another user"):
            append_lines(repository / "r.jsonl", [made("ab")])


def test_a_link_s_name_is_fit_for_a_message(repository: Path) -> None:
    (repository / "out\n::error::x").symlink_to("../secret\x1b[31m")
    with pytest.raises(Unwritten) as caught:
        write_file(repository / "out\n::error::x" / "y", "x")
    assert str(caught.value).isprintable()


def test_what_an_action_tells(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its HTML report goes into the checkout."""
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "mergegate-report.html").write_text("new")
    for name in ("STEP_SUMMARY", "OUTPUT"):
        monkeypatch.setenv(f"GITHUB_{name}", str(reports / name))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(repository))
    (repository / "out").symlink_to("../secret")
    options = ("--exit-code=0", f"--html={repository / 'out' / 'report.html'}")
    assert mergegate("github", reports, *options) == 0
    assert "is a symlink to" in (reports / "STEP_SUMMARY").read_text()
    assert "report-path<<" in (reports / "OUTPUT").read_text()
    assert "report.html" not in (reports / "OUTPUT").read_text()
