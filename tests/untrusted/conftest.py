"""A repository with a stranger's expert in it, a secret outside, and a limit of time."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

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
