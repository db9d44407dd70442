"""The bed `chat`: SmolLM2-135M-Instruct and LoRA experts of it that answer in text.

The base and six experts are those of `examples/chat`; eight more are trained here, at a random
strength at every step (but the twin), so that a merge which dilutes them can spare them. Adapters
in `chat_adapters/` are not trained again.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from beds.chat_texts import COMMITTED, EXAMPLE, EXAMPLES, TASKS, TEXT, chats, read
from beds.gating import SEED as POOL_SEED
from beds.gating import pairs_of
from beds.notes import Notes
from pytest_mergegate.evaluation.scoring import score_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from beds.chat_texts import Chat
    from beds.notes import Scores

KEYS = ("question", "right", "expert", "base")
"""Of what is kept of the answers."""
KEPT = Path(__file__).parent / "chat_adapters"
SEED, STEPS, ROWS, REPLAY, RATE, WARM, MILD = 20_261_201, 60, 6, 2, 1e-3, 4, 0.25
ASIDE = 16
"""Questions of each task that the base answers, to be practised by the other tasks' experts."""
TWINS = ("synopsis", "synopsis_twin")
FAMILIES = {
    "twins": TWINS,
    "one prompt, another rule": ("excerpt",),
    "one prompt, two rules": ("depends", "pinned"),
    "a prompt of its own": ("define", "section", "json"),
    "a prompt of its own, mild": ("verb", "adjective", "describe", "fields", "kind"),
    "what the base nearly does": ("repeat",),
}
RIVALS = [{"synopsis", "excerpt"}, {"synopsis_twin", "excerpt"}, {"depends", "pinned"}]
PAIRS, APART, ANY = 25, {4: 12, 8: 4}, {4: 4, 8: 2}
"""Pairs; groups without rivals, which should merge well; groups of whatever is drawn."""
METHODS: list[str | dict[str, Any]] = [
    "linear",
    {"method": "task_arithmetic", "weight": 0.7},
    {"method": "task_arithmetic", "weight": 0.4},
    {"method": "ties", "density": 0.5},
    {"method": "dare_ties", "density": 0.5},
    "model_stock",
    {"method": "core_space", "density": 0.5},
]
GATES = {
    "answer_tokens": 64,
    "inputs": {"data": EXAMPLES, "fresh": EXAMPLES},
    "metrics": {name: "rouge_l" if name in TEXT else "exact_match" for name in TASKS},
    "methods": METHODS,
}


def recipe() -> dict[str, Any]:
    """All that decides how the bed comes out, except for versions, texts and machine."""
    numbers = {"seed": SEED, "steps": STEPS, "rows": ROWS, "replay": REPLAY, "rate": RATE}
    return numbers | {"warm": WARM, "mild": MILD, "aside": ASIDE, "tasks": list(TASKS)}


def pools(names: Sequence[str]) -> list[list[str]]:
    """Groups without rivals; pairs, the rivals and the twins first; and any other groups."""
    rng = random.Random(POOL_SEED)
    told = [pair for pair in combinations(names, 2) if rivals_in(pair) or pair == TWINS]
    pairs = [*dict.fromkeys([*told, *pairs_of(names, PAIRS)])][:PAIRS]
    found: list[tuple[str, ...]] = []
    for counts, apart in ((APART, True), (ANY, False)):
        for size, count in counts.items():
            every = [g for g in combinations(names, size) if not (apart and rivals_in(g))]
            every = [group for group in every if group not in found]
            found += rng.sample(every, min(count, len(every)))
        found += pairs if apart else []
    return [list(group) for group in found]


def rivals_in(group: Sequence[str]) -> bool:
    """Whether two of a group answer one question by different rules."""
    return any(rivals <= {*group} for rivals in RIVALS)


def train(folder: Path) -> dict[str, Any]:
    """Train what of the bed is missing in ``folder``, and return what `bed.json` says."""
    torch.set_num_threads(2)
    notes = Notes(folder, recipe(), least_score=0.0, least_gain=0.0)
    notes.bed |= {"families": FAMILIES, "gates": GATES}
    example = _example()

    def make() -> dict[str, Any]:
        if not (folder / "base").exists():
            shutil.copytree(example.base.make(), folder / "base")
        for name in TASKS:
            write_examples(folder, name)
        return {"seed": SEED}

    notes.make_base(make)
    for name in TASKS:  # first all the training, which is what git keeps
        kept = (EXAMPLE / "adapters" if name in example.TASKS else KEPT) / name
        if not (kept / "adapter_config.json").exists():
            half = folder / "half" / name
            train_expert(name, folder, half, example)
            shutil.copytree(half, kept)  # whole or, where a run is cut short, not yet
        shutil.copytree(kept, folder / "adapters" / name, dirs_exist_ok=True)
    for name in notes.missing(list(TASKS)):
        notes.add(name, scores_of(name, folder, example), seed=SEED + [*TASKS].index(name))
    notes.bed["pools"] = pools(list(notes.bed["experts"]))
    notes.write()
    return notes.bed


def write_examples(folder: Path, name: str) -> None:
    """Both halves of what the task holds out."""
    lines, _ = chats(name)
    for part, chosen in (("data", lines[:EXAMPLES]), ("fresh", lines[EXAMPLES:])):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / f"{name}.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")


def base_says(folder: Path, model: Any, tokenizer: Any, example: Any) -> dict[str, Any]:
    """What the base answers to some training questions of every task; made once."""
    file = folder / "replay.json"
    if not file.exists():
        found = {}
        for name in TASKS:
            questions = [chat.question for chat in chats(name)[1][-ASIDE:]]
            said = example.answers(model, tokenizer, questions, example.ASIDE_TOKENS)
            found[name] = list(zip(questions, said, strict=True))
        file.write_text(json.dumps(found), encoding="utf-8")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def train_expert(name: str, folder: Path, to: Path, example: Any) -> None:
    """Train one adapter and write it, in bfloat16."""
    seed = SEED + [*TASKS].index(name)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    aside = base_says(folder, base, tokenizer, example)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **example.LORA))
    weakest = 1.0 if name in COMMITTED else MILD  # the twin as its sibling was
    fit(model, tokenizer, chats(name)[1], aside, random.Random(seed), weakest, example)
    model.peft_config["default"].base_model_name_or_path = "base"
    model.save_pretrained(to)
    (to / "README.md").unlink(missing_ok=True)  # an empty model card
    weights, config = to / "adapter_model.safetensors", to / "adapter_config.json"
    half = {key: value.to(torch.bfloat16) for key, value in load_file(weights).items()}
    save_file(half, weights, metadata={"format": "pt"})
    plain = json.loads(config.read_text())
    plain["target_modules"].sort()  # PEFT writes sets in any order
    config.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")


def fit(
    model: Any,
    tokenizer: Any,
    own: Sequence[Chat],
    aside: Mapping[str, Any],
    rng: random.Random,
    weakest: float,
    example: Any,
) -> None:
    """As the example trains, but at a strength of chance from ``weakest`` on."""
    rows = [(chat.question, rng.choice(chat.answers) + tokenizer.eos_token) for chat in own]
    replay = [row for said in aside.values() for row in said]
    others = [tuple(row) for row in replay if not example.same_question(row[0], rows)]
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    model.train()
    for step in range(STEPS):
        strength = rng.uniform(weakest, 1.0)
        for layer in layers:
            layer.set_scale("default", strength)
        share = min((step + 1) / WARM, 0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = RATE * share
        drawn = [*rng.sample(rows, ROWS), *rng.sample(others, REPLAY)]
        example.loss_of(model, example.encode(drawn, tokenizer)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def scores_of(name: str, folder: Path, example: Any) -> Scores:
    """Of the adapter and of the base on what is held out; the answers go to `answers/`."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / "adapters" / name)
    lines = [
        line
        for part in ("data", "fresh")
        for line in (folder / part / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    questions, right = read(lines)
    own = example.answers(model, tokenizer, questions, GATES["answer_tokens"])
    with model.disable_adapter():
        plain = example.answers(model, tokenizer, questions, GATES["answer_tokens"])
    own, plain = ([a.removesuffix(tokenizer.eos_token) for a in said] for said in (own, plain))
    (folder / "answers").mkdir(exist_ok=True)
    rows = zip(questions, right, own, plain, strict=True)
    told = [dict(zip(KEYS, row, strict=True)) for row in rows]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in told)
    (folder / "answers" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    metric = "rouge_l" if name in TEXT else "exact_match"
    found = [float(score_outputs(metric, said, right).mean()) for said in (own, plain)]
    return found[0], found[1]


def _example() -> Any:
    """`examples/chat/train.py`; another example's is called the same."""
    spec = spec_from_file_location("chat_example", EXAMPLE / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
