"""``mergegate check --output`` for every kind of model; it compares what it wrote itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from architectures import ARCHITECTURES
from engine_of import engine_of
from pools import write_gate, write_jsonl, write_tokenizer
from transformers import MixtralConfig, MixtralForCausalLM
from variants import load, write_variant

from pytest_mergegate.cli import main
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.merging.build import build_merged_model
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.merge import merge

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def write_rest(folder: Path) -> Path:
    """Examples and the gate file of experts ``a`` and ``b``."""
    experts: dict[str, Any] = {}
    for name in "ab":
        rows = [{"input": f"{name}:{word}="} for word in ("xy", "zq", "abc")]
        write_jsonl(folder / f"{name}.jsonl", rows)
        experts[name] = {"path": name, "examples": f"{name}.jsonl"}
    gate = {"base": "base", "experts": experts, "probes": {"max_answer_tokens": 4}}
    return write_gate(folder / "mergegate.yaml", gate | {"budget": {"max_sign_change_ratio": 1.0}})


def check(folder: Path, loaded: Any) -> None:
    """The folder holds the merge as it is in memory."""
    gate = load_gate(folder / "mergegate.yaml")
    merged = build_merged_model(gate, None, "cpu").state_dict()
    state = loaded.state_dict()
    assert set(state) == set(merged)
    for name, weight in merged.items():
        assert torch.equal(state[name], weight), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(tmp_path: Path, seed: int, architecture: str) -> None:
    base = ARCHITECTURES[architecture].write(tmp_path / "base", seed)
    for k, name in enumerate("ab", start=1):
        folder = tmp_path / name
        write_variant(base, folder, variant="lora", architecture=architecture, seed=seed + k)
    path = write_rest(tmp_path)
    assert main(["check", str(path), "--output", str(tmp_path / "out"), "--no-cache"]) == 0
    check(tmp_path, load(tmp_path / "out", architecture))


@pytest.mark.usefixtures("forked_mergekit")
def test_tensors_that_are_fused_when_loaded(tmp_path: Path, seed: int) -> None:
    """A mixture of experts is stored under other names than it has in memory."""
    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=write_tokenizer(tmp_path / "base"),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = MixtralForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    for name in "ab":
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / name)
    path = write_rest(tmp_path)
    assert main(["check", str(path), "--output", str(tmp_path / "out"), "--no-cache"]) == 0
    check(tmp_path, MixtralForCausalLM.from_pretrained(tmp_path / "out"))
    engine = engine_of(path)
    (method,) = plan_methods(load_gate(path), engine.pool.names)
    assert sorted(merge(replace(method, route="official"), engine).weights) == sorted(
        engine.model.parameters
    )
