"""A folder with a base and three adapters for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .files import Files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A sound pool to spoil, outside of CI."""
    monkeypatch.delenv("CI", raising=False)
    return Files(tmp_path, seed)
