"""What somebody writes who has no gate: merge with mergekit, ask with transformers, count.

    python benchmarks/chat_script.py OUT [--chats 40] [--tokens 48]

Four experts of ``examples/chat`` under three methods, as JSON: scores, losses and disagreements,
the answers, and how many tokens the models were fed or wrote.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from peft import PeftModel
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer

POOL = Path(__file__).parents[1] / "examples" / "chat"
EXPERTS = {"synopsis": "rouge_l", "define": "rouge_l", "section": "exact", "json": "exact"}
METHODS = {  # of mergekit, with what each expert gets
    "linear": {"weight": 0.25},
    "task_arithmetic": {"weight": 0.6},
    "ties": {"weight": 1.0, "density": 0.5},
}
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", type=Path)
parser.add_argument("--chats", type=int, default=40)
parser.add_argument("--tokens", type=int, default=48)
chosen = parser.parse_args()
seconds, tokens = {"merge": 0.0, "load": 0.0, "ask": 0.0}, 0
tokenizer = AutoTokenizer.from_pretrained(POOL / "base", padding_side="left")
rouge = RougeScorer(["rougeL"])
rows = {
    name: [json.loads(line) for line in (POOL / f"data/{name}.jsonl").open()][: chosen.chats]
    for name in EXPERTS
}


def load(folder):
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seconds["load"] += time.perf_counter() - start
    return model


def merge(method):
    start, parameters = time.perf_counter(), METHODS[method]
    base = str(POOL / "base")
    models = [{"model": f"{base}+{POOL}/adapters/{e}", "parameters": parameters} for e in EXPERTS]
    config = {"merge_method": method, "models": models, "dtype": "float32"}
    if method != "linear":
        config["base_model"] = base
    (chosen.out / f"{method}.yml").write_text(json.dumps(config))  # JSON is YAML
    mergekit = [Path(sys.executable).with_name("mergekit-yaml"), chosen.out / f"{method}.yml"]
    # without the dtype adapters are merged in the base's own bfloat16, and answers are others
    cache = ["--lora-merge-cache", chosen.out / "lora", "--lora-merge-dtype", "float32", "--quiet"]
    subprocess.run([*mergekit, chosen.out / method, *cache], check=True, stdout=sys.stderr)
    seconds["merge"] += time.perf_counter() - start
    return chosen.out / method


@torch.inference_mode()
def ask(model, name):
    global tokens
    start, answers = time.perf_counter(), []
    for k in range(0, len(rows[name]), 16):
        chats = [row["input"] for row in rows[name][k : k + 16]]
        batch = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**batch, max_new_tokens=chosen.tokens, do_sample=False)
        tokens += out.numel()
        new = out[:, batch["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(new, skip_special_tokens=True)
    seconds["ask"] += time.perf_counter() - start
    return answers


def score(name, row, answer):
    targets = row["target"] if isinstance(row["target"], list) else [row["target"]]
    if EXPERTS[name] == "exact":
        return float(answer.strip() in targets)
    return max(rouge.score(target, answer)["rougeL"].fmeasure for target in targets)


chosen.out.mkdir(parents=True, exist_ok=True)
base = load(POOL / "base")
answers = {"base": {name: ask(base, name) for name in EXPERTS}, "expert": {}}
for name in EXPERTS:
    expert = PeftModel.from_pretrained(load(POOL / "base"), POOL / "adapters" / name).eval()
    answers["expert"][name] = ask(expert, name)
for method in METHODS:
    merged = load(merge(method))
    answers[method] = {name: ask(merged, name) for name in EXPERTS}
table = {}
for who, said in answers.items():
    for name in EXPERTS:
        own = answers["expert"][name]
        pairs = list(zip(rows[name], said[name], strict=True))
        table.setdefault(who, {})[name] = {
            "score": sum(score(name, row, answer) for row, answer in pairs) / len(pairs),
            "differs": sum(a != b for a, b in zip(said[name], own, strict=True)) / len(pairs),
        }
print(json.dumps({"table": table, "seconds": seconds, "tokens": tokens, "answers": answers}))
