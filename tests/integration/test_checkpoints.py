"""Full checkpoints as experts: single, sharded, tied, in mixed types and under other names."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import torch
from architectures import ARCHITECTURES
from conflicts import dense_of
from pools import write_tokenizer
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM
from variants import AUTO, load, write_variant

from pytest_mergegate import assess
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import Gate, gate_from
from pytest_mergegate.pool.pool import Pool, read_pool
from pytest_mergegate.stages.conflict import run_conflict

if TYPE_CHECKING:
    from pathlib import Path


def write_expert(base: Path, folder: Path, architecture: str, seed: int, **saving: Any) -> Path:
    """A copy of the base with every parameter moved."""
    torch.manual_seed(seed)
    model = AUTO[ARCHITECTURES[architecture].family].from_pretrained(base)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    dtype = saving.pop("dtype", torch.float32)
    model.to(dtype).save_pretrained(folder, **saving)
    write_tokenizer(folder)
    return folder


def gate_of(folder: Path, **settings: Any) -> Gate:
    experts = {name: name for name in ("a", "b")}
    return gate_from({"base": "base", "experts": experts} | settings, root=folder)


def read(gate: Gate) -> Pool:
    pool, errors = read_pool(gate)
    assert pool is not None, errors
    return pool


def check_task_vectors(pool: Pool, architecture: str) -> None:
    vectors = TaskVectors(pool)
    base = dict(load(pool.base.path, architecture).named_parameters())
    for expert in pool.experts:
        assert expert.kind == "full"
        tuned = dict(load(expert.path, architecture).named_parameters())
        assert set(expert.changes) == set(base)
        for parameter, own in base.items():
            delta = vectors.delta(expert.name, parameter)
            torch.testing.assert_close(delta, (tuned[parameter] - own).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_task_vectors_and_states_are_the_checkpoints_own(
    tmp_path: Path, seed: int, architecture: str
) -> None:
    base = ARCHITECTURES[architecture].write(tmp_path / "base", seed)
    for k, name in enumerate("ab", start=1):
        write_expert(base, tmp_path / name, architecture, seed + k)
    gate = gate_of(tmp_path)
    pool = read(gate)
    check_task_vectors(pool, architecture)
    engine = Engine(pool, "cpu")
    forced = (12, 5) if engine.positions in engine.model.forced_positions else ()
    rows = [((5, 9, 3, 14), forced), ((7, 4), forced)]
    with engine.expert("a"):
        swapped = engine.model.states(rows, engine.positions)
    alone = gate_from({"base": "a", "experts": {"b": "b", "base": "base"}}, root=tmp_path)
    loaded = Engine(read(alone), "cpu").model.states(rows, engine.positions)
    for found, expected in zip(swapped, loaded, strict=True):
        assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_shards_and_half_precision(tmp_path: Path, seed: int, architecture: str) -> None:
    base = ARCHITECTURES[architecture].write(tmp_path / "base", seed)
    write_expert(base, tmp_path / "a", architecture, seed + 1, max_shard_size="20KB")
    write_expert(base, tmp_path / "b", architecture, seed + 2, dtype=torch.bfloat16)
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1
    check_task_vectors(read(gate_of(tmp_path)), architecture)


def test_names_without_the_prefix_of_the_class_with_a_head(tmp_path: Path, seed: int) -> None:
    base = ARCHITECTURES["gpt2"].write(tmp_path / "base", seed)
    for k, name in enumerate("ab", start=1):
        write_expert(base, tmp_path / name, "gpt2", seed + k)
    for folder in ("base", "b"):  # as the gpt2 of the hub, constants of old releases included
        file = tmp_path / folder / "model.safetensors"
        tensors = {k.removeprefix("transformer."): v for k, v in load_file(file).items()}
        tensors |= {f"h.{k}.attn.bias": torch.ones(1, 1, 64, 64) for k in range(2)}
        save_file(tensors, file, metadata={"format": "pt"})
    gate = gate_of(tmp_path)
    pool = read(gate)
    check_task_vectors(pool, "gpt2")
    Engine(pool, "cpu")


def test_an_adapter_and_a_checkpoint_in_one_pool(tmp_path: Path, seed: int) -> None:
    base = ARCHITECTURES["llama"].write(tmp_path / "base", seed)
    write_expert(base, tmp_path / "a", "llama", seed + 1)
    write_variant(base, tmp_path / "b", variant="lora", architecture="llama", seed=seed + 2)
    report = assess(
        {
            "base": "base",
            "experts": {"a": "a", "b": "b"},
            "budget": {"max_sign_change_ratio": 1.0},
        },
        root=tmp_path,
    )
    assert report.status == "pass", report.findings
    assert {e.name: e.kind for e in report.experts} == {"a": "full", "b": "lora"}


def test_weights_alone_take_no_whole_model_in_memory(tmp_path: Path, seed: int) -> None:
    base = tmp_path / "base"
    ARCHITECTURES["llama"].write(base, seed)
    # 32 layers of 1.2 MB each
    config = load(base, "llama").config
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 32, 128, 512
    config.head_dim = 32
    AUTO["causal"].from_config(config).save_pretrained(base)
    for k, name in enumerate("ab", start=1):
        write_expert(base, tmp_path / name, "llama", seed + k)
    gate = gate_of(tmp_path)
    size = (base / "model.safetensors").stat().st_size
    tracemalloc.start()
    pool = read(gate)
    run_conflict(pool, dense_of(TaskVectors(pool)), lambda _: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 20e6
    assert peak < size / 2


def test_tensors_that_transformers_fuses_on_loading(tmp_path: Path, seed: int) -> None:
    """Mixtral's experts are files' tensors one by one, and one parameter in the model."""
    config = MixtralConfig(
        **{**load_config(tmp_path, seed), "num_local_experts": 2, "num_experts_per_tok": 1}
    )
    torch.manual_seed(seed)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    for k, name in enumerate("ab", start=1):
        write_expert(tmp_path / "base", tmp_path / name, "mistral", seed + k)
    gate = gate_of(tmp_path, budget={"max_sign_change_ratio": 1.0})
    pool = read(gate)
    assert set(pool.experts[0].changes) <= set(load(tmp_path / "base", "mistral").state_dict())
    engine = Engine(pool, "cpu")
    tuned = load(tmp_path / "a", "mistral")
    with engine.expert("a"):
        states = engine.model.states([((5, 9, 3), ())], "last")
    expected = tuned.base_model(input_ids=torch.tensor([[5, 9, 3]])).last_hidden_state[0, -1:]
    torch.testing.assert_close(states[0], expected.detach(), rtol=1e-4, atol=1e-5)


def load_config(folder: Path, seed: int) -> dict[str, Any]:
    base = ARCHITECTURES["mistral"].write(folder / "mistral", seed)
    settings: dict[str, Any] = load(base, "mistral").config.to_dict()
    return {k: v for k, v in settings.items() if k not in {"architectures", "model_type"}}


def test_a_parameter_that_is_taken_for_an_old_constant(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names alone may mislead; what the loaded model has must not count as unchanged."""
    monkeypatch.setattr("pytest_mergegate.pool.checkpoints._CONSTANTS", (".q_proj.weight",))
    base = ARCHITECTURES["llama"].write(tmp_path / "base", seed)
    for k, name in enumerate("ab", start=1):
        write_expert(base, tmp_path / name, "llama", seed + k)
    gate = gate_of(tmp_path)
    engine = Engine(read(gate), "cpu")
    tuned = dict(load(tmp_path / "a", "llama").named_parameters())
    weights = engine.mixed_weights({"a": 1.0})
    assert set(weights) == set(tuned)
    for parameter, weight in weights.items():
        torch.testing.assert_close(weight, tuned[parameter].detach(), rtol=0, atol=1e-6)
