"""Every way to name a cache that a pull request has brought along, and what it would do."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.cache_folder import check_cache
from pytest_mergegate.pool import fingerprints
from untrusted.checkouts import commit, forged, git, mergegate

if TYPE_CHECKING:
    from pathlib import Path

CHEAP = {"stage": "conflict", "max_conflicting_magnitude_ratio": 1.0}


@pytest.fixture
def repository(ignoring: Path) -> Path:
    """The repository of these tests."""
    return ignoring


def _tracked(root: Path) -> Path:
    forged(root / ".cache" / "mergegate")
    return root / ".cache" / "mergegate"


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
    with pytest.raises(GateError, match="git tracks"):
        check_cache(repository / ".cache")


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
