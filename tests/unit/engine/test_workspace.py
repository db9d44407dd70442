"""What a workspace keeps must come from the files that were identified, and from this code."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.running import workspace as workspaces
from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from pathlib import Path


def _workspace(path: Path, folder: Path) -> Workspace:
    gate = load_gate(path)
    pool, errors = read_pool(gate)
    assert pool is not None, errors
    return Workspace(
        pool,
        device="cpu",
        cache=Cache(folder=folder),
        vectors=lambda: TaskVectors(pool),
    )


def test_a_base_written_to_before_it_is_loaded_is_refused(pool_copy: Path, tmp_path: Path) -> None:
    workspace = _workspace(pool_copy, tmp_path / "cache")
    weights = pool_copy.parent / "base" / "model.safetensors"
    status = weights.stat()
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    with pytest.raises(PoolError, match="was written to"):
        _ = workspace.facts
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_other_code_has_other_keys(
    tiny_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _workspace(tiny_pool, tmp_path)
    assert first.facts.positions == "answer"
    assert "engine" not in vars(_again(tiny_pool, tmp_path))
    monkeypatch.setattr(workspaces, "own_code", lambda: "sha256:another")
    assert "engine" in vars(_again(tiny_pool, tmp_path))


def _again(path: Path, folder: Path) -> Workspace:
    workspace = _workspace(path, folder)
    assert workspace.facts.positions == "answer"
    return workspace
