"""MG310: an expert that scores far under what it is known to score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pools import read_gate, write_gate

from pytest_mergegate import assess

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("known", "found"), [(0.99, True), (0.8, False), (0.5, False), (0.55, False), (None, False)]
)
def test_far_under(pool_copy: Path, known: float | None, found: bool) -> None:
    """Every expert scores 0.5 on its examples, whatever it answers."""
    folder = pool_copy.parent
    (folder / "halves.py").write_text("def half(o, t): return [k % 2 for k in range(len(o))]\n")
    gate = read_gate(pool_copy)
    for name, expert in gate["experts"].items():
        expert["metric"] = "halves:half"
        if name == "b" and known is not None:
            expert["score"] = known
    write_gate(pool_copy, gate | {"budget": {"max_loss": 100}})
    told = [f for f in assess(pool_copy, stage="eval").findings if f.code == "MG310"]
    assert [(f.severity, f.expert) for f in told] == ([("warning", "b")] if found else [])
    if found:
        assert f"scores 0.5 on 6 examples, its `score` is {known}" in told[0].message
        assert "the base by itself scores 0.5" in told[0].message
