"""Links that a pull request commits where the product writes: nothing is written through them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from unit.history.registry.making import made

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.writing import Unwritten, write_file
from pytest_mergegate.gate.options import ReportTarget
from pytest_mergegate.history.registry.appending import append_lines
from pytest_mergegate.report.baseline import read_baseline, update_baseline
from pytest_mergegate.report.run_end import write_report
from pytest_mergegate.report.types import Collected
from untrusted.suite import checked

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def repository(untouched: Path) -> Path:
    """The repository of these tests."""
    return untouched


# What leads where


def _file(target: str) -> Callable[[Path], Path]:
    def link(root: Path) -> Path:
        (root / "written").symlink_to(target)
        return root / "written"

    return link


def _folder(target: str) -> Callable[[Path], Path]:
    def link(root: Path) -> Path:
        (root / "out").symlink_to(target)
        return root / "out" / "written"

    return link


def _absolute(root: Path) -> Path:
    (root / "written").symlink_to(root.parent / "secret" / "secret.txt")
    return root / "written"


def _chain(root: Path) -> Path:
    (root / "hop").symlink_to("../secret")
    (root / "out").symlink_to("hop")
    return root / "out" / "secret.txt"


def _deep(root: Path) -> Path:
    (root / "out" / "a").mkdir(parents=True)
    (root / "out" / "a" / "b").symlink_to("../../../secret")
    return root / "out" / "a" / "b" / "c" / "written"


def _and_back(root: Path) -> Path:
    (root / "out").symlink_to("../secret")
    return root / "out" / ".." / "secret" / "secret.txt"


def _another_repository(root: Path) -> Path:
    (root.parent / "other" / ".git").mkdir(parents=True)
    (root / "out").symlink_to("../other")
    return root / "out" / "written"


LINKS: dict[str, Callable[[Path], Path]] = {
    "file outside": _file("../secret/secret.txt"),
    "absolute": _absolute,
    "new file outside": _file("../secret/new"),
    "code inside": _file("conftest.py"),
    "settings of git": _file(".git/config"),
    "hook of git": _file(".git/hooks/post-checkout"),
    "expert": _file("adapters/a/adapter_config.json"),
    "device": _file("/dev/null"),
    "circle": _file("written"),
    "folder outside": _folder("../secret"),
    "folder inside": _folder("adapters/a"),
    "folder that is none": _folder("../secret/nowhere"),
    "chain": _chain,
    "deep": _deep,
    "and back": _and_back,
    "another repository": _another_repository,
}


def _report(form: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        write_report(Collected(reports=()), ReportTarget(format=form, path=path))

    return write


def _baseline(path: Path) -> object:
    """Written by a run that found none there, or was not asked to look."""
    found = read_baseline(path.parent.parent / "none.json", path.parent)
    gate = Path.cwd() / "pool" / "mergegate.yaml"
    report = checked(gate, stage="conflict", max_conflicting_magnitude_ratio=1.0)
    moved = type(found)(path=path, root=gate.parent, reports=None)
    return update_baseline(moved, [report.model_copy(update={"gate": "mergegate.yaml"})])


WRITERS: dict[str, Callable[[Path], object]] = {
    "registry": lambda path: append_lines(path, [made("ab")]),
    "json": _report("json"),
    "markdown": _report("markdown"),
    "sarif": _report("sarif"),
    "file": lambda path: write_file(path, "x"),
    "new file": lambda path: write_file(path, "x", new=True),
}


@pytest.mark.parametrize("lead_out", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_no_link_is_written_through(
    repository: Path, lead_out: Callable[[Path], Path], write: Callable[[Path], object]
) -> None:
    path = lead_out(repository)
    with pytest.raises(GateError) as caught:
        write(path)
    said = str(caught.value)
    assert "is a symlink to" in said
    assert "no link in a repository is followed" in said
    assert "(fix: " in said


@pytest.mark.parametrize("lead_out", [LINKS["new file outside"], LINKS["folder outside"]])
def test_no_baseline_is_read_or_written_through_a_link(
    repository: Path, lead_out: Callable[[Path], Path]
) -> None:
    path = lead_out(repository)
    with pytest.raises(GateError, match=r"the baseline cannot be read .* is a symlink to"):
        read_baseline(path, repository)
    with pytest.raises(GateError, match="is a symlink to"):
        _baseline(path)


def test_a_place_without_links_is_written_to(repository: Path) -> None:
    """The suite refuses for the links, not everything."""
    for name, write in WRITERS.items():
        write(repository / "out" / "more" / name)
        assert (repository / "out" / "more" / name).is_file()
    write_file(repository / "out" / "again", "1")
    write_file(repository / "out" / "again", "2")
    assert (repository / "out" / "again").read_text() == "2"
    assert len([*(repository / "out").iterdir()]) == 2  # nothing is left half written
    with pytest.raises(Unwritten, match="File exists"):
        write_file(repository / "out" / "again", "3", new=True)
    assert (repository / "out" / "again").read_text() == "2"


def test_links_outside_are_the_user_s_own(repository: Path, tmp_path_factory: Any) -> None:
    place = tmp_path_factory.mktemp("place")
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    write_file(place / "link" / "report.json", "x")
    (place / "one.json").symlink_to("real/report.json")
    write_file(place / "one.json", "y")
    assert (place / "real" / "report.json").read_text() == "y"
    assert (place / "one.json").is_symlink()


def test_the_links_of_this_file_are_live(repository: Path) -> None:
    """What writes plainly would have followed them."""
    for name in ("new file outside", "folder outside"):
        path = LINKS[name](repository)
        path.write_text("x")
        assert path.resolve().parent.name == "secret"
        path.resolve().unlink()
