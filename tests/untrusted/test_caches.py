"""Caches that a pull request could have written: refused, and nothing in them is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import unicodedata
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate import assess
from pytest_mergegate.cache_folder import check_cache
from pytest_mergegate.errors import GateError
from pytest_mergegate.pool import fingerprints

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHEAP = {"stage": "conflict", "max_conflicting_magnitude_ratio": 1.0}


def git(folder: Path, *arguments: str) -> None:
    someone = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *someone, *arguments], cwd=folder, check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "--all", "--force")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "a pull request")


@pytest.fixture
def repository(gate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One whose .gitignore says where caches are; a run with one there has been."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setattr(fingerprints, "_in_process", {})
    root = gate.parent
    (root / ".git").rmdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text(".cache/\nkäse/\n")
    commit(root)
    return root


def forged(folder: Path) -> None:
    """Files as a stranger would have them in a cache."""
    shelf = folder / "entries-2" / "ab"
    shelf.mkdir(parents=True)
    (shelf / f"{'ab' * 32}.safetensors").write_bytes(b"forged")


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


def test_caches_that_are_fine_stay_fine(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "outside", repository / ".cache", repository / ".cache" / "deeper"):
        report = assess(repository / "mergegate.yaml", cache=folder, **CHEAP)  # type: ignore[arg-type]
        assert report.cache.misses
        again = assess(repository / "mergegate.yaml", cache=folder, **CHEAP)  # type: ignore[arg-type]
        assert again.cache.hits
    # a home folder under version control, most of which it does not ignore
    home = tmp_path / "home"
    home.mkdir()
    git(home, "init", "--quiet")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    check_cache(home / ".cache" / "pytest-mergegate")


# Every way to name one


def mergegate(*arguments: object) -> int:
    (command,) = entry_points(group="console_scripts", name="mergegate")
    try:
        return int(command.load()([*map(str, arguments)]))
    except SystemExit as exit:
        return int(exit.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", ".", "--cache", "HERE"),
        ("check", "."),
        ("check", ".", "--changed-since", "HEAD"),
        ("plan", "mergegate.yaml", "--cache", "HERE"),
        ("plan", "mergegate.yaml"),
        ("cache", "--cache", "HERE"),
        ("cache", "--clear"),
    ],
    ids=" ".join,
)
def test_every_command(
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    folder = _tracked(repository)
    commit(repository)
    monkeypatch.chdir(repository)
    if "HERE" not in arguments:
        monkeypatch.setenv("MERGEGATE_CACHE", str(folder))
    assert mergegate(*(a.replace("HERE", ".cache/mergegate") for a in arguments)) == 4
    assert "is refused, as a pull request could write to it" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["entries-2"]


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
@pytest.mark.parametrize("how", ["option", "ini", "environment"])
def test_pytest(
    repository: Path,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    workers: tuple[str, ...],
    how: str,
) -> None:
    folder = _tracked(repository)
    ini = "mergegate_cache = .cache/mergegate\n" if how == "ini" else ""
    (repository / "pytest.ini").write_text(f"[pytest]\n{ini}")
    commit(repository)
    monkeypatch.chdir(repository)
    if how == "environment":
        monkeypatch.setenv("MERGEGATE_CACHE", str(folder))
    option = ("--mergegate-cache", ".cache/mergegate") if how == "option" else ()
    ran = pytester.runpytest("--mergegate", "--rootdir", str(repository), *option, *workers)
    assert ran.ret == 4
    assert "is refused, as a pull request could write to it" in str(ran.stderr)


def test_in_python(repository: Path) -> None:
    folder = _tracked(repository)
    commit(repository)
    with pytest.raises(GateError, match="a pull request could write to it"):
        assess(repository / "mergegate.yaml", cache=folder, **CHEAP)  # type: ignore[arg-type]


def test_a_forged_verdict(repository: Path, tmp_path: Path, capsys: object) -> None:
    """A cache of a run whose numbers were edited, committed with the adapters: it would count."""
    own = tmp_path / "theirs"
    gate = repository / "mergegate.yaml"
    limits = {**CHEAP, "max_conflicting_magnitude_ratio": 0.0}
    assert assess(gate, cache=own, **limits).status == "fail"  # type: ignore[arg-type]
    shutil.copytree(own, repository / ".cache")
    assert assess(gate, cache=repository / ".cache", **limits).cache.hits  # type: ignore[arg-type]
    commit(repository)
    refused(repository / ".cache", "git tracks")


@pytest.mark.parametrize("none", [True, False])
def test_hashes_of_a_stranger_are_not_read(
    repository: Path, monkeypatch: pytest.MonkeyPatch, none: bool
) -> None:
    """A run without a cache remembers hashes, too."""
    large = repository / "adapters" / "b" / "large.safetensors"
    large.write_bytes(bytes(fingerprints.WORTH_A_MEMO))
    os.utime(large, (1, 1))
    right = fingerprints.content_hash(large)
    monkeypatch.setattr(fingerprints, "_in_process", {})
    folder = repository / ".cache"
    folder.mkdir()
    wrong = {fingerprints._key(large, large.stat()): "0" * 64}
    (folder / fingerprints.MEMO).write_text(json.dumps(wrong))
    monkeypatch.setenv("MERGEGATE_CACHE", str(folder))
    if none:
        assert fingerprints.content_hash(large) == "0" * 64  # it would have been believed
        return
    git(repository, "add", "--force", ".cache")
    before = (folder / fingerprints.MEMO).read_text()
    assert fingerprints.content_hash(large) == right
    assert (folder / fingerprints.MEMO).read_text() == before
