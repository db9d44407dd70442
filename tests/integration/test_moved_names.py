"""Adapters from before transformers moved or fused the modules that they adapt, as PEFT reads
them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from variants import load, write_variant

from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PREFIX = "base_model.model."


def expect_as_peft(base: Path, folder: Path, architecture: str) -> None:
    """The task vectors are PEFT's own, and nothing is found."""
    experts = {"x": str(folder), "other": str(folder.parent / "other")}
    found = run_preflight(gate_from({"base": str(base), "experts": experts}, root=base.parent))
    assert [str(f) for f in found.findings if f.expert == "x"] == []
    assert found.pool is not None
    model = load(base, architecture)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    vectors, moved = TaskVectors(found.pool), 0
    for name, parameter in merged.named_parameters():
        expected, delta = parameter.detach() - before[name], vectors.delta("x", name)
        if delta is None:
            assert not expected.any(), name
            continue
        moved += 1
        assert float((delta - expected).abs().max()) <= 1e-5 * float(before[name].abs().max())
    assert moved


@pytest.mark.parametrize("architecture", ["gemma3_images", "llava"])
def test_modules_that_moved(
    tmp_path: Path, random_base: Callable[[str], tuple[Path, Any]], architecture: str, seed: int
) -> None:
    """``language_model.model.layers``, as it was, and is in the base's files."""
    base, _ = random_base(architecture)
    for k, name in enumerate(("x", "other")):
        write_variant(
            base, tmp_path / name, variant="lora", architecture=architecture, seed=seed + k
        )
    file = tmp_path / "x" / "adapter_model.safetensors"
    old = {
        key.replace(f"{PREFIX}model.language_model.", f"{PREFIX}language_model.model."): tensor
        for key, tensor in load_file(file).items()
    }
    assert any(key.startswith(f"{PREFIX}language_model.model.") for key in old)
    save_file(old, file, {"format": "pt"})
    expect_as_peft(base, tmp_path / "x", architecture)


def write_unfused(base: Path, folder: Path, config: Any, **settings: Any) -> None:
    """An adapter of Mixtral's experts as it was saved when each was a module of its own."""
    tensors = {}
    for layer in range(config.num_hidden_layers):
        for expert in range(config.num_local_experts):
            for name in ("w1", "w2", "w3"):
                sizes = (config.hidden_size, config.intermediate_size)
                sizes = sizes[::-1] if name == "w2" else sizes
                module = f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{PREFIX}{module}.lora_A.weight"] = 0.1 * torch.randn(3, sizes[0])
                tensors[f"{PREFIX}{module}.lora_B.weight"] = 0.1 * torch.randn(sizes[1], 3)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    own = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["w1", "w2", "w3"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(own | settings))


@pytest.mark.parametrize("rslora", [False, True])
def test_experts_that_were_stored_one_by_one(
    tmp_path: Path, random_base: Callable[[str], tuple[Path, Any]], seed: int, rslora: bool
) -> None:
    """PEFT doubles rank and alpha of what is fused, which rsLoRA does not take."""
    base, model = random_base("mixtral")
    write_variant(base, tmp_path / "other", variant="lora", architecture="mixtral", seed=seed)
    torch.manual_seed(seed)
    write_unfused(base, tmp_path / "x", model.config, use_rslora=rslora)
    if not rslora:
        expect_as_peft(base, tmp_path / "x", "mixtral")
        return
    experts = {name: str(tmp_path / name) for name in ("x", "other")}
    found = run_preflight(gate_from({"base": str(base), "experts": experts}, root=tmp_path))
    (finding,) = found.findings
    assert (finding.code, finding.expert) == ("MG002", "x")
    assert "stack of experts" in finding.message
