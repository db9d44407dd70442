"""Make the chat example: the base, the tasks' chats, and a LoRA expert of each task.

An expert is trained for ``STEPS`` steps of ``ROWS`` chats of its own task and ``REPLAY`` questions
of the other tasks with what the base itself answers, so that it learns to leave those alone. Where
two tasks ask the same question, each is trained without the other's.

Usage: ``python train.py [--out DIR] [NAME ...]``; an adapter that is there is not made again. Needs
what ``data.py`` reads, and two to four minutes an expert on two free cores.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import base
import data
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
TRAINING = HERE / "training"  # what git ignores
TASKS = tuple(data.TASKS)
SEED = 20_261_130  # an expert's own is this plus its place among the tasks
STEPS, ROWS, REPLAY, RATE, WARM = 48, 6, 2, 1e-3, 4
ASIDE, ASIDE_TOKENS = 32, 24  # questions of each task that the base answers, and at what length
LORA = {
    "r": 4,
    "lora_alpha": 8,
    "layers_to_transform": list(range(12, 24)),
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
Row = tuple[str, str]  # a question and its answer; one that was cut has no end


def prompt(question: str, tokenizer: Any) -> list[int]:
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, questions: Sequence[str], tokens: int = 48) -> list[str]:
    """Greedy answers with their end token, sixteen at a time."""
    found: list[str] = []
    model.eval()
    for k in range(0, len(questions), 16):
        prompts = [prompt(question, tokenizer) for question in questions[k : k + 16]]
        rows = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        out = model.generate(**rows, max_new_tokens=tokens, do_sample=False)
        for ids in out[:, rows["input_ids"].shape[1] :].tolist():
            ends = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else None
            found.append(tokenizer.decode(ids[:ends]))
    return found


def encode(rows: Sequence[Row], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Question and answer, padded on the right; the loss counts the answer alone."""
    pairs = [
        (prompt(question, tokenizer), tokenizer(answer, add_special_tokens=False)["input_ids"])
        for question, answer in rows
    ]
    width = max(len(question) + len(answer) for question, answer in pairs)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (question, answer) in enumerate(pairs):
        start, end = len(question), len(question) + len(answer)
        ids[i, :end] = torch.tensor(question + answer)
        labels[i, start:end] = torch.tensor(answer)
        mask[i, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens; the head sees only their positions."""
    inner = model.get_base_model()
    labels = batch.pop("labels")[:, 1:]
    states = inner.model(**batch).last_hidden_state[:, :-1]
    kept = labels != -100
    return torch.nn.functional.cross_entropy(inner.lm_head(states[kept]), labels[kept])


def trained_on(name: str) -> list[tuple[str, list[str]]]:
    """The questions of a task's training chats, and the answers that are right."""
    with (TRAINING / f"{name}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    targets = [row["target"] for row in rows]
    right = [target if isinstance(target, list) else [target] for target in targets]
    return [(row["input"][0]["content"], t) for row, t in zip(rows, right, strict=True)]


def base_says(model: Any, tokenizer: Any) -> dict[str, list[Row]]:
    """What the base answers to the last of every task's training questions; made once."""
    file = TRAINING / "replay.json"
    if not file.exists():
        found = {}
        for name in TASKS:
            questions = [question for question, _ in trained_on(name)[-ASIDE:]]
            said = answers(model, tokenizer, questions, ASIDE_TOKENS)
            found[name] = list(zip(questions, said, strict=True))
            print(f"the base has answered {len(said)} questions of {name}", flush=True)
        file.write_text(json.dumps(found))
    return {name: [(q, a) for q, a in rows] for name, rows in json.loads(file.read_text()).items()}


def train(name: str, model: Any, tokenizer: Any, aside: dict[str, list[Row]]) -> None:
    """Train the fresh adapter of ``model`` on a task."""
    rng = random.Random(SEED)
    end = tokenizer.eos_token
    own = [(question, rng.choice(right) + end) for question, right in trained_on(name)[:-ASIDE]]
    others = [row for rows in aside.values() for row in rows if not same_question(row[0], own)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    model.train()
    for step in range(STEPS):
        share = min((step + 1) / WARM, 0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = RATE * share
        rows = [own[(step * ROWS + k) % len(own)] for k in range(ROWS)]
        loss = loss_of(model, encode([*rows, *rng.sample(others, REPLAY)], tokenizer))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 8 == 7:
            print(f"  {name} step {step + 1} loss {loss.item():.3f}", flush=True)


def same_question(question: str, own: Sequence[Row]) -> bool:
    """Whether the task asks this in the same words, whatever it asks about."""
    return question.split(":")[0] == own[0][0].split(":")[0]


def make_expert(name: str, checkpoint: Path, folder: Path) -> None:
    """Train an expert and write its adapter, in bfloat16."""
    torch.manual_seed(SEED + TASKS.index(name))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    inner: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    aside = base_says(inner, tokenizer)
    model: Any = get_peft_model(inner, LoraConfig(task_type="CAUSAL_LM", **LORA))
    train(name, model, tokenizer, aside)
    model.peft_config["default"].base_model_name_or_path = "examples/chat/base"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    weights = folder / "adapter_model.safetensors"
    half = {key: value.to(torch.bfloat16) for key, value in load_file(weights).items()}
    save_file(half, weights, metadata={"format": "pt"})
    config = folder / "adapter_config.json"  # PEFT writes sets in any order
    said = json.loads(config.read_text())
    said["target_modules"].sort()
    config.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the chat example's pool.")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR")
    parser.add_argument("names", nargs="*", choices=[*TASKS, []], metavar="NAME")
    options = parser.parse_args()
    checkpoint = base.make()
    if not TRAINING.exists():
        if (options.out / "data").exists():  # of other package lists: some may be trained on now
            raise SystemExit(f"{options.out} holds data already: name another folder with --out")
        data.write(options.out / "data", TRAINING)
    for name in options.names or TASKS:
        folder = options.out / "adapters" / name
        if not (folder / "adapter_config.json").exists():
            start = time.monotonic()
            make_expert(name, checkpoint, folder)
            print(f"{name}: trained in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
