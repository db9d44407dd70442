"""Gates whose answers are compared as text: what is missing is told before anything is computed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from plugin.test_cli import mergegate
from pytest_mergegate.evaluation import comparing

if TYPE_CHECKING:
    from pathlib import Path

    from plugin.gates import Gates

Capture = pytest.CaptureFixture[str]
BUDGET = {"max_disagreement": 1.0}


def checked(gate: Path, *options: object) -> tuple[int, dict[str, Any]]:
    """The exit code of ``mergegate check``, and the report."""
    path = gate.with_name("report.json")
    code = mergegate("check", gate, "--report", f"json:{path}", "--no-registry", *options)
    return code, json.loads(path.read_text("utf-8"))


def refused(gate: Path, said: str, capsys: Capture) -> None:
    """Neither a gate nor a plan computes anything."""
    code, report = checked(gate)
    assert code == 2
    assert said in " ".join(finding["message"] for finding in report["findings"])
    assert "hidden" not in report["seconds"]
    assert mergegate("plan", gate) == 2
    assert said in capsys.readouterr().err


def test_a_package_that_is_missing(
    gates: Gates, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = {name: gates.expert(name) for name in "bc"}
    experts["a"] = gates.expert("a", metric="rouge_l")
    path = gates.write(budget=BUDGET, experts=experts)
    monkeypatch.setattr(comparing, "find_spec", lambda name: None)
    refused(path, "metric rouge_l needs the rouge-score package", capsys)
    experts["a"] = gates.expert("a", compare="rouge_l")  # which takes no package
    _, report = checked(gates.write(budget=BUDGET, experts=experts))
    assert {e["compared_by"] for e in report["merges"][0]["experts"]} == {"exact", "rouge_l"}


@pytest.mark.parametrize("code", ["", "far = 1", "raise SystemExit(0)", "import no_such_module"])
def test_a_distance_that_cannot_be_used(gates: Gates, capsys: Capture, code: str) -> None:
    (gates.folder / "mine.py").write_text(code, "utf-8")
    experts = {name: gates.expert(name) for name in "bc"}
    experts["a"] = gates.expert("a", distance="mine:far")
    refused(gates.write(budget=BUDGET, experts=experts), "distance mine:far", capsys)
