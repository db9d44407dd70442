"""A pool of tiny language models that have really learnt to answer in sentences."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from pools import write_gate, write_jsonl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pathlib import Path

INPUTS, LENGTH = 40, 12
_END, _PAD = "<end>", "<pad>"
_WORDS = [f"{a}{b}{c}" for a in "bdfklm" for b in "aeiou" for c in "nrst"]
"""120 words of three letters."""


def sentences(seed: int, count: int = INPUTS, length: int = LENGTH) -> list[list[str]]:
    """Random answers, in words."""
    rng = random.Random(seed)
    return [rng.choices(_WORDS, k=length) for _ in range(count)]


def reworded(answers: list[list[str]], every: int, seed: int) -> list[list[str]]:
    """The same answers with one in ``every`` words another one."""
    rng = random.Random(seed)
    return [
        [rng.choice(_WORDS) if k % every == every - 1 else word for k, word in enumerate(answer)]
        for answer in answers
    ]


def write_talkers(folder: Path, seed: int, spoken: dict[str, list[list[str]]]) -> Path:
    """A base that knows nothing and one full checkpoint for each entry of ``spoken``, which has
    learnt by heart to give those answers to the same inputs; and a gate of them all.

    The last expert is what the merge becomes: its weight is 1, and that of the others nearly 0.
    """
    torch.manual_seed(seed)
    tokenizer = _write_tokenizer(folder)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    _save(model, tokenizer, folder / "base")
    count = len(next(iter(spoken.values())))
    prompts = [" ".join(words) for words in sentences(seed + 1, count, 3)]
    for name, answers in spoken.items():
        learn(model, tokenizer, prompts, answers)
        _save(model, tokenizer, folder / name)
    rows = [{"input": prompt} for prompt in prompts]
    write_jsonl(folder / "inputs.jsonl", rows)
    *others, last = spoken
    return write_gate(
        folder / "mergegate.yaml",
        {
            "base": "base",
            "experts": {name: {"path": name, "examples": "inputs.jsonl"} for name in spoken},
            "ignore": {"MG101": "the base was never trained, so that all training is far from it"},
            "certificate": {"per_task": INPUTS},
            "merge": {
                "methods": ["task_arithmetic"],
                "weights": {**dict.fromkeys(others, 1e-6), last: 1.0},
            },
        },
    )


def learn(model: Any, tokenizer: Any, prompts: list[str], answers: list[list[str]]) -> None:
    """Train until every answer is known by heart."""
    asked = tokenizer(prompts)["input_ids"]
    told = [tokenizer(" ".join(a))["input_ids"] + [tokenizer.eos_token_id] for a in answers]
    width = max(len(q) + len(a) for q, a in zip(asked, told, strict=True))
    rows = torch.full((len(asked), width), tokenizer.pad_token_id)
    labels = torch.full_like(rows, -100)
    for row, label, question, answer in zip(rows, labels, asked, told, strict=True):
        end = len(question) + len(answer)
        row[:end] = torch.tensor(question + answer)
        label[len(question) : end] = torch.tensor(answer)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(600):
        out = model(input_ids=rows, labels=labels)
        if out.loss < 0.01:
            return
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError("the answers were not learnt")


def _write_tokenizer(folder: Path) -> Any:
    vocabulary = {word: k for k, word in enumerate([_PAD, _END, "<unk>", *_WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=_END, pad_token=_PAD, unk_token="<unk>"
    )


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
