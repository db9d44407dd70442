"""Compiled loops where there is a place for their machine code, and where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numba.core import caching

from pytest_mergegate.common.compiled import compiled

if TYPE_CHECKING:
    import pytest


def twice(number: float) -> float:
    return 2 * number


def test_machine_code_is_kept() -> None:
    assert compiled(twice)(4.0) == 8.0


def test_without_a_folder_to_write_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only installation of a user without a home."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert compiled(twice)(4.0) == 8.0
