"""An engine on the CPU for a gate file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from pathlib import Path


def engine_of(path: Path) -> Engine:
    """The pool of a gate file, loaded."""
    gate = load_gate(path)
    pool, errors = read_pool(gate)
    assert pool is not None, errors
    return Engine(pool, "cpu")
