"""Sizes of changes against dense task vectors, for every kind of change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from safetensors.numpy import load_file, save_file
from variants import write_variant

from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.pool import Pool, read_pool

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = "adapter_model.safetensors"


def write(folder: Path, variant: str, architecture: str, seed: int) -> None:
    base = ARCHITECTURES[architecture].write(folder / "base", seed)
    for k, name in enumerate("ab", start=1):
        write_variant(
            base, folder / name, variant=variant, architecture=architecture, seed=seed + k
        )


def read(folder: Path) -> Pool:
    pool, errors = read_pool(
        gate_from({"base": "base", "experts": {"a": "a", "b": "b"}}, root=folder)
    )
    assert pool is not None, errors
    return pool


def edit(folder: Path, change: dict[str, float], ending: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    for name in tensors:
        if name.endswith(ending):
            tensors[name] = (tensors[name] * change["scale"]).astype(np.float32)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("variant", "architecture"),
    [
        ("lora", "llama"),
        ("lora", "gpt2"),
        ("patterns", "t5"),
        ("embedding", "llama"),
        ("lora_bias", "bert_classifier"),
        ("bias_all", "opt"),
        ("saved_modules", "llama"),
        ("tokens", "bert_classifier"),
    ],
)
def test_norms(tmp_path: Path, seed: int, variant: str, architecture: str) -> None:
    write(tmp_path, variant, architecture, seed)
    pool = read(tmp_path)
    vectors = TaskVectors(pool)
    for name in pool.names:
        statistics = pool.statistics[name]
        squares = {}
        for parameter in vectors.parameters(name):
            delta = vectors.delta(name, parameter)
            assert delta is not None
            expected = float(torch.linalg.norm(delta.double()))
            assert statistics.norms[parameter] == pytest.approx(expected, rel=1e-5, abs=1e-9)
            assert (parameter in statistics.unchanged) is (expected == 0)
            squares[parameter] = expected**2
        base = sum(float((pool.base.tensors.floats(p) ** 2).sum()) for p in squares)
        relative = (sum(squares.values()) / base) ** 0.5
        # the base's parameters are smaller than the sample that is taken of them
        assert statistics.relative_norm == pytest.approx(relative, rel=1e-4)
        assert not statistics.non_finite
        assert not statistics.overflowing


def test_a_product_that_overflows(tmp_path: Path, seed: int) -> None:
    write(tmp_path, "lora", "llama", seed)
    edit(tmp_path / "a", {"scale": 1e30}, "q_proj.lora_A.weight")
    edit(tmp_path / "a", {"scale": 1e30}, "q_proj.lora_B.weight")
    statistics = read(tmp_path).statistics["a"]
    assert {p.split(".")[-2] for p in statistics.overflowing} == {"q_proj"}
    assert not statistics.non_finite


def test_large_finite_factors_are_finite(tmp_path: Path, seed: int) -> None:
    """Their squares are beyond float32; they themselves, and their product, are not."""
    write(tmp_path, "lora", "llama", seed)
    edit(tmp_path / "a", {"scale": 1e25}, "lora_A.weight")
    edit(tmp_path / "a", {"scale": 1e-25}, "lora_B.weight")
    pool = read(tmp_path)
    statistics = pool.statistics["a"]
    assert not statistics.non_finite
    assert not statistics.overflowing
    parameter = "model.layers.0.self_attn.q_proj.weight"
    delta = TaskVectors(pool).delta("a", parameter)
    assert delta is not None
    expected = float(torch.linalg.norm(delta.double()))
    assert statistics.norms[parameter] == pytest.approx(expected, rel=1e-5)


def test_trained_lengths_alone_are_a_change(tmp_path: Path, seed: int) -> None:
    write(tmp_path, "dora", "llama", seed)
    for name in "ab":
        edit(tmp_path / name, {"scale": 0.0}, "lora_B.weight")
    assert not read(tmp_path).statistics["a"].unchanged
    base = load_file(tmp_path / "base" / "model.safetensors")
    tensors = load_file(tmp_path / "a" / WEIGHTS)
    for name in tensors:  # as DoRA starts: the lengths of the base
        if name.endswith("magnitude_vector"):
            weight = base[name.removeprefix("base_model.model.").rpartition(".")[0] + ".weight"]
            tensors[name] = np.linalg.norm(weight.astype(np.float64), axis=1).astype(np.float32)
    save_file(tensors, tmp_path / "a" / WEIGHTS)
    relative = read(tmp_path).statistics["a"].relative_norm
    assert relative is not None
    assert relative < 1e-6
