"""The conflict stage by itself, in a process of its own: without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pools import read_gate, write_gate
from transformers import AutoModelForCausalLM

from pytest_mergegate import assess

if TYPE_CHECKING:
    from pathlib import Path

_RUN = """
import json, sys
from pathlib import Path
from pytest_mergegate import assess
gate = Path(sys.argv[1])
report = assess(gate, root=gate.parent, stage="conflict", max_sign_change_ratio=1.0)
heavy = {"torch", "transformers", "peft", "mergekit"} & set(sys.modules)
print(json.dumps({"heavy": sorted(heavy), "report": json.loads(report.to_json(None))}))
"""


def assess_apart(gate: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", _RUN, str(gate)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_checkpoints(gate: Path, seed: int) -> None:
    """Full checkpoints in place of the adapters."""
    settings = read_gate(gate)
    for k, (name, expert) in enumerate(settings["experts"].items()):
        torch.manual_seed(seed + k)
        model = AutoModelForCausalLM.from_pretrained(gate.parent / "base")
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(gate.parent / "full" / name)
        tokenizer = gate.parent / "base" / "tokenizer.json"
        (gate.parent / "full" / name / "tokenizer.json").write_bytes(tokenizer.read_bytes())
        expert["path"] = f"full/{name}"
    write_gate(gate, settings)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("mode", ["exact", "sampled"])
def test_needs_no_torch(pool_copy: Path, seed: int, kind: str, mode: str) -> None:
    if kind == "full":
        write_checkpoints(pool_copy, seed)
    write_gate(pool_copy, read_gate(pool_copy) | {"conflict": {"mode": mode, "rows": 16}})
    found = assess_apart(pool_copy)
    report = found["report"]
    assert report["status"] == "pass", report["findings"]
    assert {expert["kind"] for expert in report["experts"]} == {kind}
    assert len(report["pairs"]) == 3
    for pair in report["pairs"]:
        assert 0 < pair["sign_change_ratio"] < 1
    assert found["heavy"] == []


def test_a_device_that_is_not_there_is_told_of_before_a_model_needs_it(pool_copy: Path) -> None:
    budget = {"stage": "conflict", "max_sign_change_ratio": 1.0}
    report = assess(pool_copy, root=pool_copy.parent, device="cuda:99", cache=False, **budget)
    assert report.status == "error"
    assert "cuda:99" in report.findings[0].message
