"""Tiny random pools on disk: a Llama base, LoRA adapters saved by PEFT, examples and a gate file.

Nothing is trained: the weights are drawn large enough that models answer differently, which is
all that the arithmetic of a gate needs.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

if TYPE_CHECKING:
    from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz:= "
PAD, EOS = "<pad>", "<eos>"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One expert of a pool to be written."""

    scale: float = 0.2
    """Standard deviation of the factors; how far the expert goes from the base."""
    examples: str | None = "plain"
    """``plain`` (with targets), ``unlabelled``, ``choices``, or None for no file."""
    lora: dict[str, Any] = field(default_factory=dict)
    """Settings of PEFT's LoraConfig that differ from rank 4, alpha 8, every linear layer."""


def write_tokenizer(folder: Path) -> int:
    """A tokenizer of single letters; returns the size of its vocabulary."""
    vocabulary = {token: k for k, token in enumerate([PAD, EOS, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS
    ).save_pretrained(folder)
    return len(vocabulary)


def write_base(folder: Path, seed: int, **config: Any) -> Path:
    """A random Llama."""
    settings: dict[str, Any] = {
        "vocab_size": write_tokenizer(folder),
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,
    }
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**settings | config)).save_pretrained(folder)
    return folder


def never_end(base: Path, positions: int) -> None:
    """Have a base that never says that its text ends, and reads so many tokens."""
    file = base / "model.safetensors"
    weights = load_file(file)
    for name in {"lm_head.weight", "model.embed_tokens.weight"} & weights.keys():
        weights[name][1] = 0.0  # some other logit is above zero
    save_file(weights, file, {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["max_position_embeddings"] = positions
    (base / "config.json").write_text(json.dumps(config))


def write_adapter(base: Path, folder: Path, seed: int, adapter: Adapter | None = None) -> Path:
    """A random adapter of ``base``, as PEFT saves it."""
    adapter = adapter or Adapter()
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings | adapter.lora),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data, std=adapter.scale / 4)
    # with lm_head as a target, PEFT would save the base's own layers beside the factors
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def words(count: int, seed: int, length: int = 4) -> list[str]:
    """Distinct random words of one to ``length`` letters."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(list(LETTERS[:26]), size=rng.integers(1, length + 1)))] = None
    return list(found)


def examples(name: str, kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Inputs that start with the expert's name, with targets and choices as ``kind`` says."""
    drawn = words(4 * count, seed)
    rows: list[dict[str, Any]] = []
    for k, word in enumerate(drawn[:count]):
        row: dict[str, Any] = {"input": f"{name}:{word}="}
        if kind == "plain":
            row["target"] = word[::-1]
        elif kind == "choices":
            row["choices"] = drawn[count + 3 * k : count + 3 * k + 3]
            row["target"] = row["choices"][k % 3]
        rows.append(row)
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_gate(path: Path, gate: dict[str, Any]) -> Path:
    """A gate file with the keys in the order given."""
    path.write_text(yaml.safe_dump(gate, sort_keys=False), encoding="utf-8")
    return path


def read_gate(path: Path) -> dict[str, Any]:
    """What a gate file says."""
    gate: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return gate


def edit_adapter_config(folder: Path, **changes: Any) -> None:
    """Change settings in an adapter's configuration."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | changes), encoding="utf-8")


def apart(names: str) -> dict[str, Adapter]:
    """Experts that go ever further from the base, so that their distances differ clearly.

    HiddenSim divides by the largest less the smallest distance: of experts about equally far
    apart, round-off in the states would show in its fifth digit.
    """
    return {name: Adapter(scale=k / 10) for k, name in enumerate(names, start=1)}


def copy_pool(gate: Path, folder: Path) -> Path:
    """A copy of a pool in a new ``folder``, without gates that other tests have put beside it; its
    adapters name the copy's base."""
    shutil.copytree(gate.parent, folder, ignore=shutil.ignore_patterns("*.mergegate.yaml"))
    for adapter in folder.glob("adapters/*/adapter_config.json"):
        edit_adapter_config(adapter.parent, base_model_name_or_path=str(folder / "base"))
    return folder / gate.name


def write_pool(
    folder: Path,
    seed: int,
    adapters: dict[str, Adapter] | None = None,
    *,
    count: int = 6,
    **gate: Any,
) -> Path:
    """Base, adapters, examples and a gate file named ``mergegate.yaml``; returns its path.

    ``gate`` replaces keys of the gate file.
    """
    adapters = adapters or apart("abc")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    base = write_base(folder / "base", seed)
    experts: dict[str, Any] = {}
    for k, (name, adapter) in enumerate(adapters.items(), start=1):
        write_adapter(base, folder / "adapters" / name, seed + k, adapter)
        experts[name] = {"path": f"adapters/{name}"}
        if adapter.examples is not None:
            rows = examples(name, adapter.examples, count, seed + k)
            write_jsonl(folder / "data" / f"{name}.jsonl", rows)
            experts[name]["examples"] = f"data/{name}.jsonl"
    settings: dict[str, Any] = {
        "base": "base",
        "experts": experts,
        "probes": {"per_task": count, "max_answer_tokens": 6},
    }
    return write_gate(folder / "mergegate.yaml", settings | gate)
