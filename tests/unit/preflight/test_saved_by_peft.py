"""No false alarms: whatever PEFT and transformers saved themselves has no findings."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from architectures import ARCHITECTURES

from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from pathlib import Path

TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classifier": "SEQ_CLS"}
LORA: dict[str, dict[str, Any]] = {
    "all linear": {},
    "rank-stabilised, patterns": {
        "use_rslora": True,
        "rank_pattern": {r".*1.*": 6},
    },
    "dora, one layer": {"use_dora": True, "layers_to_transform": [1]},
}
LLAMA_ONLY: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "output layer": {"target_modules": ["lm_head", "q_proj"]},
    "trained norm": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "trained tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 1]},
    "expression": {"target_modules": r".*\.[01]\.(self_attn\.[qv]_proj|mlp\.up_proj)"},
    "excluded": {"exclude_modules": r".*mlp.*"},
    "named layers": {
        "target_modules": ["q_proj"],
        "layers_to_transform": 1,
        "layers_pattern": "layers",
    },
}
METHODS: dict[str, dict[str, Any]] = {
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LoHa": {"target_modules": ["q_proj", "v_proj"]},
    "LoKr": {"target_modules": ["q_proj", "v_proj"]},
    "Vera": {"target_modules": ["q_proj"]},
    "OFT": {"target_modules": ["q_proj"], "oft_block_size": 4},
    "BOFT": {"target_modules": ["q_proj"], "boft_block_size": 4},
    "LNTuning": {"target_modules": ["input_layernorm"]},
    "FourierFT": {"target_modules": ["q_proj"], "n_frequency": 10},
    "HRA": {"target_modules": ["q_proj"]},
}


Tune = Callable[[Any, str], Any]


@pytest.fixture
def found(
    tmp_path: Path, random_base: Callable[[str], tuple[Path, Any]], seed: int
) -> Callable[[str, Tune], list[Any]]:
    """What the first stage finds of a base and two experts that are made by a function."""

    def find(architecture: str, tune: Tune) -> list[Any]:
        base, model = random_base(architecture)
        task = TASKS.get(ARCHITECTURES[architecture].family, "FEATURE_EXTRACTION")
        for k, expert in enumerate("xy"):
            torch.manual_seed(seed + k)
            tuned = tune(deepcopy(model), task)
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.1 * torch.randn_like(parameter)
            tuned.save_pretrained(tmp_path / expert)
        experts = {"x": "x", "y": "y"}
        gate = gate_from({"base": str(base), "experts": experts}, root=tmp_path)
        return [*run_preflight(gate).findings]

    return find


def codes(found: list[Any]) -> list[str]:
    # classifiers: PEFT trains each adapter's own head, and MG114 is right to say so
    return [str(finding) for finding in found if finding.code != "MG114"]


@pytest.mark.parametrize("lora", LORA.values(), ids=LORA)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora(
    found: Callable[[str, Tune], list[Any]], architecture: str, lora: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {"target_modules": "all-linear", "r": 4} | deepcopy(lora)
    if architecture.startswith("distilbert"):  # PEFT trains pre_classifier whole
        settings["target_modules"] = ["q_lin", "lin1"]
    if architecture == "t5" or "layers_to_transform" in lora:
        settings["target_modules"] = attention(architecture)

    def tune(model: Any, task: str) -> Any:
        return peft.get_peft_model(model, peft.LoraConfig(task_type=task, **settings))

    assert codes(found(architecture, tune)) == []


def attention(architecture: str) -> list[str]:
    """One kind of linear layer in every block."""
    known = {
        "gpt2": "c_attn", "t5": "q", "gpt_neox": "query_key_value", "bert": "query",
        "roberta": "query", "distilbert": "q_lin",
    }  # fmt: skip
    return [next((v for k, v in known.items() if architecture.startswith(k)), "q_proj")]


@pytest.mark.parametrize("lora", LLAMA_ONLY.values(), ids=LLAMA_ONLY)
def test_lora_settings(found: Callable[[str, Tune], list[Any]], lora: dict[str, Any]) -> None:
    def tune(model: Any, task: str) -> Any:
        settings = {"target_modules": "all-linear", "task_type": task} | lora
        return peft.get_peft_model(model, peft.LoraConfig(**settings))

    assert codes(found("llama", tune)) == []


@pytest.mark.parametrize("method", METHODS)
def test_other_methods(found: Callable[[str, Tune], list[Any]], method: str) -> None:
    def tune(model: Any, task: str) -> Any:
        config = getattr(peft, f"{method}Config")(task_type=task, **METHODS[method])
        return peft.get_peft_model(model, config)

    assert codes(found("llama", tune)) == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_fine_tunes(found: Callable[[str, Tune], list[Any]], architecture: str) -> None:
    assert codes(found(architecture, lambda model, task: model)) == []
