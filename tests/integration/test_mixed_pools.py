"""Checkpoints, LoRA, DoRA and IA3 in one pool: merges and verdicts against dense models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from mergekit.merge_methods.api import merge_state_dicts
from naive import Tie, best
from peft import PeftModel
from pools import examples, write_jsonl
from transformers import AutoTokenizer
from variants import load, write_variant

from pytest_mergegate import assess
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.merge import merge
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {"checkpoint": "full", "factors": "lora", "lengths": "dora", "scales": "ia3"}
VARIANTS = {"factors": "saved_modules", "lengths": "dora", "scales": "ia3"}
METHODS = [
    "linear",
    {"method": "ties", "density": 0.5},
    {"method": "task_arithmetic", "weight": 0.4},
]
COUNT, LONGEST, END = 10, 5, 1
Weights = dict[str, torch.Tensor]


def write_pool(folder: Path, seed: int) -> dict[str, Any]:
    base = ARCHITECTURES["llama"].write(folder / "base", seed)
    torch.manual_seed(seed)
    tuned = load(base, "llama")
    for parameter in tuned.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    tuned.save_pretrained(folder / "checkpoint")
    for k, (name, variant) in enumerate(VARIANTS.items(), start=1):
        write_variant(base, folder / name, variant=variant, architecture="llama", seed=seed + k)
    for k, name in enumerate(KINDS):
        rows = [{"input": r["input"]} for r in examples(name, "plain", COUNT, seed + k)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return {
        "base": "base",
        "experts": {name: {"path": name, "examples": f"{name}.jsonl"} for name in KINDS},
        "probes": {"max_answer_tokens": LONGEST},
        "budget": {"max_disagreement": 1.0},
        "merge": {"methods": METHODS, "select": "all"},
    }


def dense(folder: Path) -> dict[str, Weights]:
    """Every expert's whole weights, from PEFT's own merge."""
    found = {
        "base": load(folder / "base", "llama"),
        "checkpoint": load(folder / "checkpoint", "llama"),
    }
    for name in VARIANTS:
        base = load(folder / "base", "llama")
        adapted = PeftModel.from_pretrained(base, folder / name, autocast_adapter_dtype=False)
        found[name] = adapted.merge_and_unload()
    return {name: {k: p.detach() for k, p in m.named_parameters()} for name, m in found.items()}


def with_mergekit(weights: dict[str, Weights], method: str, **parameters: Any) -> Weights:
    names = sorted(KINDS) if method == "linear" else ["base", *sorted(KINDS)]
    models = {name: weights[name] for name in names}
    merged: Weights = merge_state_dicts(models, method, parameters=parameters, base=names[0])
    return merged


@torch.inference_mode()
def greedy(folder: Path, weights: Weights, prompt: list[int]) -> list[int]:
    model = load(folder / "base", "llama")
    model.load_state_dict(weights, strict=False)
    answer: list[int] = []
    while len(answer) < LONGEST and END not in answer:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, -1]
        answer.append(best(logits.double()))
    return answer


def test_merged_weights_are_mergekits_on_dense_models(tmp_path: Path, seed: int) -> None:
    gate = gate_from(write_pool(tmp_path, seed), root=tmp_path)
    pool, errors = read_pool(gate)
    assert pool is not None, errors
    assert {e.name: e.kind for e in pool.experts} == KINDS
    engine = Engine(pool, "cpu")
    weights = dense(tmp_path)
    expected = {
        "linear": with_mergekit(weights, "linear", weight=0.25),
        "ties": with_mergekit(weights, "ties", weight=1.0, density=0.5),
        "task_arithmetic": with_mergekit(weights, "task_arithmetic", weight=0.4),
    }
    for method in plan_methods(gate, pool.names):
        merged = merge(method, engine).weights
        own = expected[method.name]
        assert set(merged) == set(own)
        for parameter, weight in own.items():
            # a task vector's rounding may lift an entry over the threshold that ties trims at
            off = (merged[parameter] - weight).abs() > 1e-5 * weight.abs().max()
            allowed = 0.01 if method.name == "ties" else 0.0
            assert float(off.double().mean()) <= allowed, (method.label, parameter)


def test_disagreements_are_those_of_the_dense_models(tmp_path: Path, seed: int) -> None:
    for attempt in range(10):
        try:
            return _check_disagreements(tmp_path / str(attempt), seed + 1000 * attempt)
        except Tie:
            continue
    pytest.fail("ten pools in a row with a tie: answers are decided by round-off")


def _check_disagreements(folder: Path, seed: int) -> None:
    folder.mkdir()
    report = assess(write_pool(folder, seed), root=folder)
    assert not [f for f in report.findings if f.severity == "error"]
    weights = dense(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    merges = {
        "linear": with_mergekit(weights, "linear", weight=0.25),
        "task_arithmetic weight=0.4": with_mergekit(weights, "task_arithmetic", weight=0.4),
    }
    for k, name in enumerate(KINDS):
        prompts = [
            tokenizer(row["input"])["input_ids"] for row in examples(name, "plain", COUNT, seed + k)
        ]
        own = [greedy(folder, weights[name], prompt) for prompt in prompts]
        for label, merged in merges.items():
            theirs = [greedy(folder, merged, prompt) for prompt in prompts]
            rate = np.mean([a != b for a, b in zip(own, theirs, strict=True)])
            record = next(m for m in report.merges if m.method == label)
            found = next(e for e in record.experts if e.name == name)
            assert found.disagreement == pytest.approx(rate), (label, name)
