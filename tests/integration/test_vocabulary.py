"""``vocabulary: pad``: experts with tokens and embedding rows that the base lacks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pools import words, write_base, write_gate, write_jsonl
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_mergegate import assess
from pytest_mergegate.cli import main
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.adapters import WEIGHTS
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_mergegate.common.findings import Finding
    from pytest_mergegate.pool.pool import Pool

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOKENS = 31
"""Of the base's tokenizer."""


@pytest.fixture
def base(tmp_path: Path, seed: int) -> Path:
    return write_base(tmp_path / "base", seed)


def write_expert(
    base: Path,
    folder: Path,
    seed: int,
    *,
    rows: int | None,
    added: tuple[str, ...] = (),
    full: bool = False,
    **lora: Any,
) -> Path:
    """An expert of the base with ``rows`` rows, trained after its tokens were added."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(list(added))
    if rows is not None:
        model.resize_token_embeddings(rows)
    if not full:
        settings = {"target_modules": ["q_proj"], "r": 2, "init_lora_weights": False} | lora
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read(root: Path, **gate: Any) -> tuple[Pool | None, list[Finding]]:
    experts = {name: name for name in "xy" if (root / name).exists()}
    settings = {"base": "base", "experts": experts, "vocabulary": "pad", **gate}
    found = run_preflight(gate_from(settings, root=root))
    return found.pool, [*found.findings]


SAVED = {"modules_to_save": ["embed_tokens", "lm_head"]}


def test_rows_are_those_of_transformers_resize(base: Path, tmp_path: Path, seed: int) -> None:
    write_expert(base, tmp_path / "x", seed + 1, rows=TOKENS + 1, added=("<x>",), **SAVED)
    write_expert(base, tmp_path / "y", seed + 2, rows=None)
    _, findings = read(tmp_path, vocabulary="same")
    assert "MG110" in {f.code for f in findings if f.severity == "error"}
    pool, findings = read(tmp_path)
    assert [f.code for f in findings if f.severity == "error"] == []
    assert "MG110" in {f.code for f in findings}
    assert pool is not None
    expected = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    expected.resize_token_embeddings(TOKENS + 1)
    own = dict(expected.named_parameters())
    for name in (EMBEDDING, HEAD):
        stored = torch.from_numpy(pool.base.tensors.floats(name))
        torch.testing.assert_close(stored, own[name].detach(), rtol=1e-6, atol=1e-6)
    resized = AutoModelForCausalLM.from_pretrained(base)
    resized.resize_token_embeddings(TOKENS + 1)
    merged = PeftModel.from_pretrained(resized, tmp_path / "x").merge_and_unload()
    vectors, trained = TaskVectors(pool), dict(merged.named_parameters())
    for name in (EMBEDDING, HEAD, "model.layers.0.self_attn.q_proj.weight"):
        delta = vectors.delta("x", name)
        expert = torch.from_numpy(pool.base.tensors.floats(name)) + delta
        torch.testing.assert_close(expert, trained[name].detach(), rtol=1e-5, atol=1e-5)
    assert vectors.delta("y", EMBEDDING) is None


@pytest.mark.parametrize("full", [False, True])
def test_padding_rows_are_ignored(base: Path, tmp_path: Path, seed: int, full: bool) -> None:
    for k, (name, rows) in enumerate({"x": TOKENS + 1, "y": 64}.items()):
        settings = {} if full else SAVED
        folder = tmp_path / name
        write_expert(base, folder, seed + k, rows=rows, added=("<x>",), full=full, **settings)
    pool, findings = read(tmp_path)
    assert [str(f) for f in findings if f.severity == "error"] == []
    assert pool is not None
    assert pool.base.tensors[EMBEDDING].shape == (TOKENS + 1, 32)
    delta = TaskVectors(pool).delta("y", EMBEDDING)
    assert delta is not None
    assert delta.shape == (TOKENS + 1, 32)
    assert delta[TOKENS].any()


def test_an_expert_trimmed_to_its_tokenizer(tmp_path: Path, seed: int) -> None:
    """As 151,666 rows are to a base's 151,936."""
    base = write_base(tmp_path / "base", seed, vocab_size=40)
    write_expert(base, tmp_path / "x", seed + 1, rows=TOKENS, **SAVED)
    write_expert(base, tmp_path / "y", seed + 2, rows=None, **SAVED)
    pool, findings = read(tmp_path)
    assert findings == []
    assert pool is not None
    vectors = TaskVectors(pool)
    deltas = [vectors.delta(name, EMBEDDING) for name in "xy"]
    assert all(d is not None and d.shape == (40, 32) and d[:TOKENS].any() for d in deltas)
    assert deltas[0] is not None
    assert not deltas[0][TOKENS:].any()


@pytest.mark.parametrize(
    ("added", "says"),
    [
        ({"x": ("<x>",), "y": ("<y>",)}, "id 31 is token '<y>' here and '<x>' in x"),
        ({"x": ("<x>", "<y>"), "y": ("<y>", "<x>")}, "id 31 is token '<y>' here and '<x>' in x"),
    ],
)
def test_one_id_for_two_tokens(
    base: Path, tmp_path: Path, seed: int, added: dict[str, tuple[str, ...]], says: str
) -> None:
    for k, (name, tokens) in enumerate(added.items()):
        folder = tmp_path / name
        write_expert(base, folder, seed + k, rows=TOKENS + len(tokens), added=tokens, **SAVED)
    pool, (found,) = read(tmp_path)
    assert pool is None
    assert (found.code, found.severity, found.expert) == ("MG110", "error", "y")
    assert says in found.message


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"trainable_token_indices": [3, TOKENS]},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_factors_and_rows_of_added_tokens(
    base: Path, tmp_path: Path, seed: int, settings: dict[str, Any]
) -> None:
    write_expert(base, tmp_path / "x", seed, rows=TOKENS + 2, added=("<x>",), **settings)
    write_expert(base, tmp_path / "y", seed + 1, rows=None)
    pool, findings = read(tmp_path)
    assert [str(f) for f in findings if f.severity == "error"] == []
    assert pool is not None
    vectors = TaskVectors(pool)
    moved = [vectors.delta("x", name) for name in (EMBEDDING, HEAD)]
    assert any(delta is not None and delta.any() for delta in moved)
    assert all(delta is None or len(delta) == TOKENS + 1 for delta in moved)


P = "base_model.model."
RENAMED: dict[str, Callable[[str], str]] = {
    "no prefix": lambda key: key.removeprefix(P),
    "neither": lambda key: key.removeprefix(P).removeprefix("model."),
    "no model": lambda key: key.replace(f"{P}model.", P),
    "base_model.": lambda key: key.replace(P, "base_model."),
    "twice": lambda key: P + key,
    "compiled": lambda key: f"_orig_mod.{key}",
    "adapter": lambda key: re.sub(r"(lora_.)\.", r"\1.default.", key),
}


@pytest.mark.parametrize("grown", [True, False])
@pytest.mark.parametrize("way", RENAMED)
def test_resized_modules_under_other_names(
    base: Path, tmp_path: Path, seed: int, way: str, grown: bool
) -> None:
    """PEFT stores a resized module three times: as trained, as it was, and by its plain name."""
    added, rows = (("<x>",), TOKENS + 1) if grown else ((), None)
    write_expert(base, tmp_path / "x", seed + 1, rows=rows, added=added, **SAVED)
    write_expert(base, tmp_path / "y", seed + 2, rows=None)
    names = (EMBEDDING, HEAD, "model.layers.0.self_attn.q_proj.weight")
    pool, _ = read(tmp_path)
    assert pool is not None
    expected = [TaskVectors(pool).delta("x", name) for name in names]
    weights = tmp_path / "x" / WEIGHTS
    save_file({RENAMED[way](k): t for k, t in load_file(weights).items()}, weights)
    pool, findings = read(tmp_path)
    assert [str(f) for f in findings if f.severity == "error"] == []
    assert any("is read as" in f.message for f in findings)
    assert pool is not None
    for name, before in zip(names, expected, strict=True):
        delta = TaskVectors(pool).delta("x", name)
        assert delta is not None
        assert before is not None
        assert torch.equal(delta, before)


def test_nothing_to_pad(base: Path, tmp_path: Path, seed: int) -> None:
    for k, name in enumerate("xy"):
        write_expert(base, tmp_path / name, seed + k, rows=None)
    pool, findings = read(tmp_path)
    assert findings == []
    assert pool is not None
    assert pool.base.path == base.resolve()


@pytest.mark.parametrize("route", ["in_place", "official"])
@pytest.mark.usefixtures("forked_mergekit")
def test_a_merge_is_gated_and_written(base: Path, tmp_path: Path, seed: int, route: str) -> None:
    for k, (name, rows) in enumerate({"x": TOKENS + 1, "y": 40}.items()):
        write_expert(base, tmp_path / name, seed + k, rows=rows, added=("<x>",), **SAVED)
        write_jsonl(
            tmp_path / f"{name}.jsonl", [{"input": f"{name}<x>{word}="} for word in ("ab", "c")]
        )
    experts = {name: {"path": name, "examples": f"{name}.jsonl"} for name in "xy"}
    gate = {"base": "base", "experts": experts, "vocabulary": "pad", "merge": {"route": route}}
    gate |= {"probes": {"max_answer_tokens": 4}, "budget": {"max_sign_change_ratio": 1.0}}
    path = write_gate(tmp_path / "mergegate.yaml", gate)
    out = tmp_path / "out"
    assert main(["check", str(path), "--output", str(out), "--no-cache"]) == 0
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert merged.get_input_embeddings().weight.shape == (TOKENS + 1, 32)
    assert AutoTokenizer.from_pretrained(out).convert_tokens_to_ids("<x>") == TOKENS
    pool, _ = read(tmp_path)
    assert pool is not None
    deltas = [TaskVectors(pool).delta(name, EMBEDDING) for name in "xy"]
    expected = torch.from_numpy(pool.base.tensors.floats(EMBEDDING)) + sum(deltas) / 2  # type: ignore[arg-type]
    torch.testing.assert_close(merged.get_input_embeddings().weight, expected, rtol=1e-5, atol=1e-5)


def test_a_finished_merge_of_an_expert_that_grew(base: Path, tmp_path: Path, seed: int) -> None:
    """Its own folder is refused though a padded copy stands for it; its export is the expert."""
    write_expert(base, tmp_path / "x", seed + 1, rows=TOKENS + 1, added=("<x>",), **SAVED)
    pool, findings = read(tmp_path, merged="x")
    assert pool is None
    assert [(f.code, f.severity) for f in findings] == [("MG131", "error")]
    resized = AutoModelForCausalLM.from_pretrained(base)
    resized.resize_token_embeddings(TOKENS + 1)
    PeftModel.from_pretrained(resized, tmp_path / "x").merge_and_unload().save_pretrained(
        tmp_path / "out"
    )
    AutoTokenizer.from_pretrained(tmp_path / "x").save_pretrained(tmp_path / "out")
    write_jsonl(tmp_path / "x.jsonl", [{"input": word} for word in words(40, seed)])
    gate = {"base": "base", "experts": {"x": {"path": "x", "examples": "x.jsonl"}}}
    gate |= {"vocabulary": "pad", "probes": {"max_answer_tokens": 6}}
    report = assess(gate, root=tmp_path, merged="out")
    assert report.status in {"pass", "inconclusive"}  # the base may answer alike
    # round-off decides where two tokens are as likely
    assert report.merges[0].experts[0].disagreement <= 0.1
    assert (report.merges[0].fidelity or 0) < 1e-3
