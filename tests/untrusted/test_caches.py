"""Caches that a pull request could have written: refused, and nothing in them is read."""

from __future__ import annotations

import os
import unicodedata
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.cache_folder import check_cache
from untrusted.checkouts import commit, forged, git

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def repository(ignoring: Path) -> Path:
    """The repository of these tests."""
    return ignoring


def refused(folder: Path, why: str) -> None:
    with pytest.raises(GateError) as caught:
        check_cache(folder)
    said = str(caught.value)
    assert f"the cache {folder} is refused, as a pull request could write to it" in said
    assert why in said, said
    assert "(fix: name a folder outside of the repository)" in said


# What a pull request commits


def _tracked(root: Path) -> Path:
    forged(root / ".cache" / "mergegate")
    return root / ".cache" / "mergegate"


def _beside_entries(root: Path) -> Path:
    """Hashes of files, which say that an adapter has not changed."""
    (root / ".cache").mkdir()
    (root / ".cache" / "content-hashes.json").write_text("{}")
    return root / ".cache"


def _another_case(root: Path) -> Path:
    """The same folder to the file systems of macOS and Windows."""
    forged(root / ".Cache" / "MERGEGATE")
    return root / ".cache" / "mergegate"


def _another_form(root: Path) -> Path:
    forged(root / unicodedata.normalize("NFD", "käse") / "x")
    return root / "käse" / "x"


def _link(target: str) -> Callable[[Path], Path]:
    def link(root: Path) -> Path:
        forged(root / "adapters" / "b" / "c")
        (root / ".cache").symlink_to(target)
        return root / ".cache" / "c"

    return link


def _link_itself(root: Path) -> Path:
    forged(root / "adapters" / "b" / "c")
    (root / ".cache").mkdir()
    (root / ".cache" / "c").symlink_to("../adapters/b/c")
    return root / ".cache" / "c"


def _file_in_its_place(root: Path) -> Path:
    (root / ".cache").write_text("x")
    return root / ".cache" / "mergegate"


def _expert(root: Path) -> Path:
    forged(root / "adapters" / "b")
    return root / "adapters" / "b"


def _everything(root: Path) -> Path:
    forged(root)
    return root


def _submodule(root: Path) -> Path:
    """A repository of its own, that the pull request names."""
    inner = root.parent / "inner"
    forged(inner / "c")
    git(inner, "init", "--quiet")
    commit(inner)
    git(root, "submodule", "--quiet", "add", "--force", inner.as_uri(), ".cache")
    return root / ".cache" / "c"


def _submodule_itself(root: Path) -> Path:
    return _submodule(root).parent


COMMITTED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tracked": (_tracked, "git tracks .cache/mergegate/entries-2/ab/abab"),
    "beside entries": (_beside_entries, "git tracks .cache/content-hashes.json"),
    "another case": (_another_case, "git tracks .Cache/MERGEGATE"),
    "another form": (_another_form, "git tracks ka"),
    "folder linked": (_link("adapters/b"), ".cache is a symlink to adapters/b"),
    "folder linked outside": (_link("../secret"), ".cache is a symlink to ../secret"),
    "linked itself": (_link_itself, "c is a symlink to ../adapters/b/c"),
    "file in its place": (_file_in_its_place, "git tracks .cache"),
    "an expert": (_expert, "git tracks adapters/b/"),
    "the repository": (_everything, "git tracks "),
    "submodule around it": (_submodule, "git tracks c/entries-2"),
    "submodule itself": (_submodule_itself, "git tracks c/entries-2"),
}


@pytest.mark.parametrize(("bring", "why"), COMMITTED.values(), ids=COMMITTED)
@pytest.mark.parametrize("at", ["the repository", "elsewhere"])
def test_what_is_committed_is_no_cache(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    bring: Callable[[Path], Path],
    why: str,
    at: str,
) -> None:
    folder = bring(repository)
    commit(repository)
    if at == "the repository":
        monkeypatch.chdir(repository)
    refused(folder, why)


def test_what_is_staged_is_no_cache(repository: Path) -> None:
    forged(repository / ".cache")
    git(repository, "add", "--force", ".cache")
    refused(repository / ".cache", "git tracks .cache/entries-2")


def test_what_is_not_ignored_may_be_committed_any_day(repository: Path) -> None:
    refused(repository / "results", "it lies in the repository, and git does not ignore it")
    refused(repository / ".git" / ".." / "results", "git does not ignore it")


def test_where_git_cannot_be_asked(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", "")
    refused(repository / ".cache", "No such file or directory")
    monkeypatch.setenv("PATH", path)
    (repository / ".git" / "HEAD").write_text("nonsense")
    refused(repository / ".cache", "git cannot tell what it tracks there")
