"""A repository with a stranger's expert in it, a secret outside, and a limit of time."""

from __future__ import annotations

import os
import signal
import stat
from typing import TYPE_CHECKING

import pytest

from untrusted.checkouts import commit, contents, git
from untrusted.suite import SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Whatever hangs is a failure, not a test run without an end."""

    def stop(*_: object) -> None:
        pytest.fail(f"still running after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that only a stranger's code would make; the working directory is its folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "a stranger's code was run"


@pytest.fixture
def gate(pool_copy: Path, marker: Path) -> Path:
    """The gate file of a repository, and a secret outside of it."""
    assert marker.parent == pool_copy.parent.parent
    (pool_copy.parent / ".git").mkdir()
    secret = marker.parent / "secret"
    secret.mkdir()
    (secret / "secret.txt").write_text("TOP-SECRET")
    return pool_copy


@pytest.fixture
def work_tree(gate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree with one commit, and one file that differs from it."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    root = gate.parent
    (root / ".git").rmdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "first")
    (root / "data" / "b.jsonl").write_text("changed\n")
    return root


@pytest.fixture
def payload(marker: Path) -> str:
    """A program that only git would have started, whatever it is given."""
    program = marker.parent / "payload"
    program.write_text(f"#!/bin/sh\n: > '{marker}'\ncat 2>/dev/null\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


@pytest.fixture
def ignoring(gate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One whose .gitignore says where caches are."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setattr("pytest_mergegate.pool.fingerprints._in_process", {})
    root = gate.parent
    (root / ".git").rmdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text(".cache/\nkäse/\n")
    commit(root)
    return root


@pytest.fixture
def untouched(gate: Path) -> Iterator[Path]:
    """The repository. What lies outside, and what is not to be overwritten, stays as it is."""
    root = gate.parent
    (root / "conftest.py").write_text("# ours\n")
    (root / ".git" / "config").write_text("# git's\n")
    kept = (root.parent / "secret", root / ".git", root / "adapters")
    before = contents(*kept) | {"conftest": (root / "conftest.py").read_bytes()}
    yield root
    after = contents(*kept) | {"conftest": (root / "conftest.py").read_bytes()}
    assert after == before, "something was written where a link led"
    assert [*contents(root.parent / "secret")] == [str(root.parent / "secret" / "secret.txt")]
