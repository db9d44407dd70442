"""Pools that once passed, or took the machine with them; each must be refused in one line."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import torch
from architectures import ARCHITECTURES
from peft import AdaLoraConfig, PeftModel, get_peft_model
from pools import words, write_jsonl
from safetensors.torch import load_file, save_file
from variants import load, write_variant

from pytest_mergegate import assess
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_mergegate.report.types import FindingRecord, Report

pytestmark = pytest.mark.usefixtures("any_base")

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MODEL = "model.safetensors"
Tensors = dict[str, torch.Tensor]
RATIOS = {"max_sign_change_ratio": 1.0}


def edit_tensors(file: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, file, metadata={"format": "pt"})


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def write_pool(folder: Path, architecture: str, seed: int, *variants: str) -> dict[str, Any]:
    """A base, and an adapter of each variant or, for ``full``, a checkpoint; named a, b, ..."""
    base = ARCHITECTURES[architecture].write(folder / "base", seed)
    experts: dict[str, Any] = {}
    for k, variant in enumerate(variants, start=1):
        name = "-abc"[k]
        if variant == "full":
            shutil.copytree(base, folder / name)
            edit_tensors(folder / name / MODEL, lambda t: _move(t, seed + k))  # noqa: B023
        else:
            write_variant(
                base, folder / name, variant=variant, architecture=architecture, seed=seed + k
            )
        rows = [{"input": f"{name}:{word}="} for word in words(6, seed + k)]
        write_jsonl(folder / f"{name}.jsonl", rows)
        experts[name] = {"path": name, "examples": f"{name}.jsonl"}
    return {
        "base": "base",
        "experts": experts,
        "probes": {"per_task": 6, "max_answer_tokens": 4},
        "budget": {"max_disagreement": 1.0},
    }


def _move(tensors: Tensors, seed: int) -> None:
    torch.manual_seed(seed)
    for name, tensor in tensors.items():
        if name != "final_logits_bias":
            tensors[name] = tensor + 0.02 * torch.randn_like(tensor)


def run(folder: Path, gate: Mapping[str, Any]) -> Report:
    return assess(dict(gate), root=folder)


def refusal(folder: Path, gate: Mapping[str, Any]) -> FindingRecord:
    """The first error of a gate that does not pass."""
    report = run(folder, gate)
    assert report.status == "error"
    found = [finding for finding in report.findings if finding.severity == "error"]
    assert found[0].code != "MG900"
    return found[0]


@pytest.mark.parametrize(
    ("architecture", "variant", "setting"),
    [("llama", "dora", "use_dora"), ("gpt2", "lora_bias", "lora_bias")],
)
def test_settings_without_which_peft_drops_tensors(
    tmp_path: Path, seed: int, architecture: str, variant: str, setting: str
) -> None:
    gate = write_pool(tmp_path, architecture, seed, variant, "lora")
    assert run(tmp_path, gate).status == "pass"
    edit_json(tmp_path / "a" / CONFIG, **{setting: False})
    found = refusal(tmp_path, gate)
    assert (found.code, found.expert) == ("MG102", "a")
    assert f"{setting} is not set" in found.message


def test_a_base_with_nan_where_only_the_weights_are_gated(tmp_path: Path, seed: int) -> None:
    gate = write_pool(tmp_path, "llama", seed, "lora", "lora") | {"budget": RATIOS}
    assert run(tmp_path, gate).status == "pass"
    name = "model.layers.0.self_attn.q_proj.weight"
    edit_tensors(tmp_path / "base" / MODEL, lambda t: t[name].fill_(float("nan")))
    assert refusal(tmp_path, gate).code == "MG105"


def test_a_bias_stored_as_integers(tmp_path: Path, seed: int) -> None:
    gate = write_pool(tmp_path, "gpt2", seed, "full", "full")
    assert run(tmp_path, gate).status == "pass"
    name = "transformer.h.0.attn.c_attn.bias"
    edit_tensors(tmp_path / "a" / MODEL, lambda t: t.update({name: t[name].to(torch.int32)}))
    assert refusal(tmp_path, gate).code == "MG113"


def test_a_buffer_that_no_merge_changes(tmp_path: Path, seed: int) -> None:
    gate = write_pool(tmp_path, "bart", seed, "full", "full")
    assert run(tmp_path, gate).status == "pass"
    edit_tensors(tmp_path / "a" / MODEL, lambda t: t["final_logits_bias"].add_(0.5))
    found = refusal(tmp_path, gate)
    assert (found.code, found.expert) == ("MG002", "a")
    assert "final_logits_bias" in found.message


def test_a_base_whose_configuration_names_other_weights(tmp_path: Path, seed: int) -> None:
    gate = write_pool(tmp_path, "llama", seed, "lora", "lora")
    shutil.copy(tmp_path / "base" / MODEL, tmp_path / "base" / "other.safetensors")
    edit_json(tmp_path / "base" / "config.json", transformers_weights="other.safetensors")
    assert "transformers_weights" in refusal(tmp_path, gate).message


def test_a_base_with_an_adapter_beside_it(tmp_path: Path, seed: int) -> None:
    gate = write_pool(tmp_path, "llama", seed, "lora", "lora")
    for name in (CONFIG, WEIGHTS):
        shutil.copy(tmp_path / "a" / name, tmp_path / "base" / name)
    assert "adapter_config.json beside" in refusal(tmp_path, gate).message


@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        ("loha", {"rank_pattern": {"q_proj": 10**9}}),
        ("adalora", {"init_r": 10**9}),
        ("vblora", {"num_vectors": 10**9}),
        ("tinylora", {"u": 10**9}),
        ("oft", {"use_cayley_neumann": True, "num_cayley_neumann_terms": 10**9}),
    ],
    ids=str,
)
def test_settings_that_would_take_all_memory_or_time(
    tmp_path: Path, seed: int, variant: str, settings: dict[str, Any]
) -> None:
    gate = write_pool(tmp_path, "llama", seed, variant, "lora") | {"budget": RATIOS}
    edit_json(tmp_path / "a" / CONFIG, **settings)
    found = refusal(tmp_path, gate)
    assert (found.code, found.expert) == ("MG002", "a")
    assert "is more than" in found.message


@pytest.mark.parametrize(
    ("variant", "setting", "value"),
    [
        ("c3a", "block_size_pattern", 8),
        ("fourierft", "n_frequency_pattern", 20),
        ("waveft", "n_frequency_pattern", 20),
        ("delora", "lambda_pattern", 15),
    ],
)
def test_expressions_that_peft_would_run(
    tmp_path: Path, seed: int, variant: str, setting: str, value: int
) -> None:
    gate = write_pool(tmp_path, "llama", seed, variant, "lora") | {"budget": RATIOS}
    evil = "(([a-z]|[0-9]|_|[.])*)*!"
    edit_json(tmp_path / "a" / CONFIG, **{setting: {evil: value}})
    assert run(tmp_path, gate).status in {"pass", "error"}
    edit_json(tmp_path / "a" / CONFIG, **{setting: {"q_proj": value}})
    assert run(tmp_path, gate).status == "pass"


def test_a_rank_whose_square_is_more_than_the_memory(tmp_path: Path, seed: int) -> None:
    gate = write_pool(tmp_path, "llama", seed, "lora", "lora") | {"budget": RATIOS}
    rank, module = 20_000, "model.layers.0.mlp.up_proj"
    torch.manual_seed(seed)

    def widen(tensors: Tensors) -> None:
        a, b = (f"base_model.model.{module}.lora_{side}.weight" for side in "AB")
        tensors[a] = torch.randn(rank, tensors[a].shape[1]) / 100
        tensors[b] = torch.randn(tensors[b].shape[0], rank) / 100

    edit_tensors(tmp_path / "a" / WEIGHTS, widen)
    edit_json(tmp_path / "a" / CONFIG, rank_pattern={f"^{module}": rank})
    tracemalloc.start()
    report = run(tmp_path, gate)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.status == "pass"
    assert peak < 100e6  # 3.2 GB for one square
    pool, errors = read_pool(gate_from(gate, root=tmp_path))
    assert pool is not None, errors
    delta = TaskVectors(pool).delta("a", f"{module}.weight")
    assert delta is not None
    found = pool.statistics["a"].norms[f"{module}.weight"]
    assert found == pytest.approx(float(delta.double().norm()), rel=1e-4)


def test_adalora_after_its_ranks_were_allocated(tmp_path: Path, seed: int) -> None:
    """PEFT then stores what is left of the factors, and which ranks those are."""
    gate = write_pool(tmp_path, "llama", seed, "lora", "lora") | {"budget": RATIOS}
    shutil.rmtree(tmp_path / "a")
    torch.manual_seed(seed)
    settings = {"init_r": 6, "target_r": 3, "total_step": 8, "tinit": 1, "tfinal": 2, "deltaT": 1}
    model = get_peft_model(
        load(tmp_path / "base", "llama"),
        AdaLoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], **settings),
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for step in range(1, 9):
        ids = torch.randint(2, 30, (4, 8))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "a")
    assert "lora_E" in str(json.loads((tmp_path / "a" / CONFIG).read_text())["rank_pattern"])
    assert run(tmp_path, gate).status == "pass"
    pool, errors = read_pool(gate_from(gate, root=tmp_path))
    assert pool is not None, errors
    base = dict(load(tmp_path / "base", "llama").named_parameters())
    tuned = PeftModel.from_pretrained(load(tmp_path / "base", "llama"), tmp_path / "a")
    merged = dict(tuned.merge_and_unload().named_parameters())
    for name in pool.experts[0].changes:
        delta = TaskVectors(pool).delta("a", name)
        assert delta is not None
        torch.testing.assert_close(delta, (merged[name] - base[name]).detach())


@pytest.mark.parametrize("container", ["factors", "precision", "shards"])
def test_one_expert_in_two_containers(tmp_path: Path, seed: int, container: str) -> None:
    """Their files differ, their task vectors do not except for rounding."""
    full = container == "shards"
    kind = "full" if full else "lora"
    gate = write_pool(tmp_path, "llama", seed, kind, kind, kind)
    shutil.rmtree(tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    file = tmp_path / "b" / (MODEL if full else WEIGHTS)
    if container == "factors":
        edit_tensors(
            file, lambda t: t.update({k: v * (4 if "lora_A" in k else 0.25) for k, v in t.items()})
        )
    elif container == "precision":
        edit_tensors(file, lambda t: t.update({k: v.bfloat16() for k, v in t.items()}))
    else:
        load(tmp_path / "a", "llama").save_pretrained(tmp_path / "b", max_shard_size="20KB")
        file.unlink()
    report = assess(gate | {"budget": RATIOS}, root=tmp_path)
    found = [f for f in report.findings if f.code == "MG106"]
    assert [f.expert for f in found] == ["b"], report.findings
    assert "as expert 'a' does" in found[0].message


@pytest.mark.parametrize("architecture", ["bert", "t5", "gpt2"])
def test_a_base_without_its_tokenizer(tmp_path: Path, seed: int, architecture: str) -> None:
    """transformers makes up a tokenizer to which all words are one: all answers would agree."""
    gate = write_pool(tmp_path, architecture, seed, "lora", "lora")
    for file in (tmp_path / "base").glob("*token*"):
        file.unlink()
    found = run(tmp_path, gate)
    assert found.status == "error"
    assert "the base has no tokenizer" in found.findings[-1].message


@pytest.mark.parametrize("whose", ["base", "a"])
def test_one_file_of_weights_beside_shards(tmp_path: Path, seed: int, whose: str) -> None:
    """transformers loads the one, mergekit the others."""
    gate = write_pool(tmp_path, "llama", seed, "full", "full")
    kept = load_file(tmp_path / whose / MODEL)
    load(tmp_path / whose, "llama").save_pretrained(tmp_path / whose, max_shard_size="20KB")
    save_file(kept, tmp_path / whose / MODEL, metadata={"format": "pt"})
    found = assess(gate, root=tmp_path, stage="preflight")
    assert (found.status, found.findings[0].code) == ("error", "MG001")
    assert "model.safetensors and an index of shards" in found.findings[0].message


def test_warnings_of_the_libraries_are_not_the_users(
    tmp_path: Path, seed: int, recwarn: pytest.WarningsRecorder
) -> None:
    """Under -W error, one would make an error of a sound pool."""
    gate = write_pool(tmp_path, "llama", seed, "lora", "ia3")
    recwarn.clear()
    assert run(tmp_path, gate).status == "pass"
    assert [str(warning.message) for warning in recwarn] == []


def test_a_variant_of_a_peft_to_come(tmp_path: Path, seed: int) -> None:
    gate = write_pool(tmp_path, "llama", seed, "lora", "lora")
    edit_json(tmp_path / "a" / CONFIG, use_superlora=False)
    assert run(tmp_path, gate | {"budget": RATIOS}).status == "pass"
    edit_json(tmp_path / "a" / CONFIG, use_superlora=True)
    found = refusal(tmp_path, gate)
    assert (found.code, found.expert) == ("MG002", "a")
    assert "use_superlora=True" in found.message


def test_an_adapter_one_folder_further_down(tmp_path: Path, seed: int) -> None:
    gate = write_pool(tmp_path, "llama", seed, "lora", "lora")
    (tmp_path / "a").rename(tmp_path / "checkpoint-60")
    (tmp_path / "a").mkdir()
    (tmp_path / "checkpoint-60").rename(tmp_path / "a" / "checkpoint-60")
    assert "checkpoint-60/ in it has" in refusal(tmp_path, gate).message


def test_an_adapter_that_peft_does_not_load(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = write_pool(tmp_path, "llama", seed, "ia3", "lora")
    monkeypatch.setattr(
        "pytest_mergegate.engine.weights.adapters.set_peft_model_state_dict", lambda *_, **__: None
    )
    found = refusal(tmp_path, gate)
    assert (found.code, found.expert) == ("MG002", "a")
    assert "is not what is stored" in found.message
