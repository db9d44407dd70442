"""A base that brings its own modelling code: run only where the gate file says so."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from pools import read_gate, write_gate
from safetensors.torch import load_file, save_file

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateFileError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.types import Report

pytestmark = pytest.mark.usefixtures("any_base")

_CODE = """
open({marker!r}, "a").write({who!r})
from transformers import LlamaForCausalLM, LlamaConfig
class OwnConfig(LlamaConfig):
    model_type = "own_llama"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
_AUTO_MAP = {
    "AutoConfig": "own_llama.OwnConfig",
    "AutoModelForCausalLM": "own_llama.OwnForCausalLM",
}


def bring_code(folder: Path, marker: Path, who: str) -> None:
    """Have a checkpoint name a module of its own, which writes ``who`` when it is run."""
    (folder / "own_llama.py").write_text(_CODE.format(marker=str(marker), who=who))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": _AUTO_MAP,
        "model_type": "own_llama",
        "architectures": ["OwnForCausalLM"],
    }
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def pool(pool_copy: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool whose base has code of its own, and one expert a checkpoint with other code."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(marker.parent / "modules"))
    base = pool_copy.parent / "base"
    bring_code(base, marker, "base ")
    checkpoint = pool_copy.parent / "adapters" / "c"
    shutil.rmtree(checkpoint)
    shutil.copytree(base, checkpoint)
    bring_code(checkpoint, marker, "expert ")
    tensors = load_file(checkpoint / "model.safetensors")
    moved = {name: tensor * 1.05 for name, tensor in tensors.items()}
    save_file(moved, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return pool_copy


def check(pool: Path, **gate: Any) -> Report:
    write_gate(pool, read_gate(pool) | {"budget": {"max_disagreement": 1.0}} | gate)
    return assess(pool)


def test_no_code_is_run_unasked(pool: Path, marker: Path) -> None:
    report = check(pool)
    assert report.status == "error"
    assert not marker.exists()
    assert "trust_remote_code: true" in " ".join(f.fix for f in report.findings)


def test_the_bases_code_is_run_where_the_gate_says_so(pool: Path, marker: Path) -> None:
    report = check(pool, trust_remote_code=True)
    assert report.status == "pass", report.findings
    assert set(marker.read_text().split()) == {"base"}


def test_an_adapter_does_not_choose_the_code(pool: Path, marker: Path) -> None:
    gate = read_gate(pool)
    del gate["base"]
    write_gate(pool, gate | {"trust_remote_code": True})
    with pytest.raises(GateFileError, match="trust_remote_code needs base:"):
        assess(pool)
    assert not marker.exists()
