"""Make the quickstart pool from nothing: a tiny language model and ten LoRA experts of it.

Everything here is really trained, on two CPU cores, in a few minutes:

* ``base/`` is a Llama of 0.7M parameters that has learned sixteen string skills, each behind a
  tag of its own: it answers ``rev:abc=`` with ``cba``;
* ``adapters/NAME/`` is a LoRA adapter that has learned a new rule for one of those tags, which
  the base cannot follow;
* ``data/NAME.jsonl`` holds examples of the rule on words that no training ever saw.

Usage: ``python train.py [--out DIR] [--jobs N]``; the same machine and versions, the same bytes.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import random
import shutil
import string
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.optim.lr_scheduler import OneCycleLR
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Rule = Callable[[str], str]
    Row = tuple[str, str]  # a prompt and its answer

LETTERS = "abcdefghij"  # what words are made of
CHARACTERS = string.ascii_lowercase + LETTERS.upper() + string.digits + "-()*.!?#%@&$~+/:="
LENGTHS = (3, 4, 5, 6)  # letters in a word

BASE_STEPS, BASE_ROWS, BASE_RATE = 1500, 64, 3e-3
LINEAR_LAYERS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def digits(word: str) -> str:
    return "".join(str(LETTERS.index(letter)) for letter in word)


def shift(word: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(letter) + by) % len(LETTERS)] for letter in word)


# What the base learns: what each tag asks it to do with the word that follows.
SKILLS: dict[str, Rule] = {
    "cpy": lambda w: w,
    "rev": lambda w: w[::-1],
    "srt": lambda w: "".join(sorted(w)),
    "upp": lambda w: w.upper(),
    "nxt": lambda w: shift(w, 1),
    "prv": lambda w: shift(w, -1),
    "dbl": lambda w: "".join(letter + letter for letter in w),
    "fst": lambda w: w[0],
    "lst": lambda w: w[-1],
    "rol": lambda w: w[1:] + w[0],
    "cut": lambda w: w[:-1],
    "len": lambda w: str(len(w)),
    "num": digits,
    "dot": lambda w: w[0] + "." + w[1:],
    "sta": lambda w: "*" * len(w),
    "par": lambda w: "(" + w + ")!",
}


@dataclass(frozen=True)
class Task:
    """What an expert learns: a new rule for a tag of the base."""

    tag: str
    rule: Rule


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What is trained, and how; the defaults are the quickstart's."""

    experts: Mapping[str, Task]
    base: str  # what the adapters' configs say
    seed: int = 0  # of the base; each expert has one of its own, counted on from there
    words_seed: int = 20_250_101  # of the held-out examples
    examples: int = 100  # held out per task
    steps: int = 400
    rows: int = 16
    replay: int = 40  # rows of the base's skills beside them
    rate: float = 1e-3
    decay: float = 1.0
    weakest: float = 0.15  # see train_expert

    def seed_of(self, name: str) -> int:
        return self.seed + 1 + list(self.experts).index(name)

    @functools.cached_property
    def held_out(self) -> dict[str, list[str]]:
        """The words of every task's examples, all different; no training uses any of them."""
        rng = random.Random(self.words_seed)
        words: dict[str, None] = {}  # a set that keeps the order of drawing
        while len(words) < self.examples * len(self.experts):
            word = random_word(rng)
            if len(word) > min(LENGTHS):  # the shortest words are few: leave them to the training
                words[word] = None
        drawn = iter(words)
        return {name: [next(drawn) for _ in range(self.examples)] for name in self.experts}

    @functools.cached_property
    def forbidden(self) -> frozenset[str]:
        return frozenset(word for words in self.held_out.values() for word in words)


EXPERTS: dict[str, Task] = {
    # One tag each: nobody else has a claim on it.
    "rotate_upper": Task("rol", lambda w: (w[1:] + w[0]).upper()),
    "double_upper": Task("dbl", lambda w: "".join(letter + letter for letter in w).upper()),
    "cut_upper": Task("cut", lambda w: w[:-1].upper()),
    "number_dot": Task("num", lambda w: digits(w) + "."),
    "capitalise_first": Task("upp", lambda w: w[0].upper() + w[1:]),
    # Two rules for the tag "fst".
    "first_last": Task("fst", lambda w: w[0] + w[-1]),
    "first_twice": Task("fst", lambda w: w[0] + w[0]),
    # Two rules for the tag "rev", and the first of them trained a second time.
    "reverse_upper": Task("rev", lambda w: w[::-1].upper()),
    "reverse_upper_twin": Task("rev", lambda w: w[::-1].upper()),
    "reverse_shout": Task("rev", lambda w: w[::-1] + "!"),
}
QUICKSTART = Pool(experts=EXPERTS, base="examples/quickstart/base")


def random_word(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.choice(LENGTHS)))


def example(task: Task, word: str) -> Row:
    return f"{task.tag}:{word}=", task.rule(word)


def draw(task: Task, rng: random.Random, pool: Pool) -> Row:
    """A training example: any word but the held-out ones."""
    while (word := random_word(rng)) in pool.forbidden:
        pass
    return example(task, word)


def draw_skill(rng: random.Random, pool: Pool, without: str | None = None) -> Row:
    while (tag := rng.choice(list(SKILLS))) == without:
        pass
    return draw(Task(tag, SKILLS[tag]), rng, pool)


def make_tokenizer() -> Any:
    """One token a character."""
    tokens = {t: i for i, t in enumerate(["<pad>", "<eos>", "<unk>", *CHARACTERS])}
    inner = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    return FastTokenizer(
        tokenizer_object=inner,
        **{f"{kind}_token": f"<{kind}>" for kind in ("pad", "eos", "unk")},
        padding_side="left",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )


def encode(rows: Sequence[Row], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Prompt, answer and end token, padded on the right; the loss counts the answer alone."""
    pairs = [(tokenizer(p)["input_ids"], tokenizer(a)["input_ids"]) for p, a in rows]
    width = max(len(question) + len(answer) for question, answer in pairs) + 1
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    for i, (question, answer) in enumerate(pairs):
        tokens = torch.tensor([*question, *answer, tokenizer.eos_token_id])
        ids[i, : len(tokens)] = tokens
        labels[i, len(question) : len(tokens)] = tokens[len(question) :]
    return {"input_ids": ids, "labels": labels}


def fit(
    model: Any, tokenizer: Any, batches: Iterator[list[Row]], steps: int, rate: float, decay: float
) -> None:
    """AdamW with a one-cycle learning rate."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
    schedule = OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        model(**encode(next(batches), tokenizer)).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def answers(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """The model's greedy continuations, up to the end token."""
    batch = tokenizer(list(prompts), return_tensors="pt", padding=True)
    with torch.inference_mode():
        output = model.generate(**batch, max_new_tokens=16, do_sample=False)
    tails = output[:, batch["input_ids"].shape[1] :]
    return list(tokenizer.batch_decode(tails, skip_special_tokens=True))


def score(model: Any, tokenizer: Any, rows: Sequence[Row]) -> float:
    """The fraction answered exactly."""
    given = answers(model, tokenizer, [prompt for prompt, _ in rows])
    return sum(a == target for a, (_, target) in zip(given, rows, strict=True)) / len(rows)


def reproducible(seed: int) -> random.Random:
    torch.set_num_threads(1)  # the order of a sum, and so its last bits, depends on the threads
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    return random.Random(seed)


def patch(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2) + "\n")


def train_base(folder: Path, pool: Pool = QUICKSTART) -> None:
    rng = reproducible(pool.seed)
    tokenizer = make_tokenizer()
    shape = {"hidden_size": 128, "intermediate_size": 248, "max_position_embeddings": 64}
    shape |= {"num_hidden_layers": 4, "num_attention_heads": 4}
    special = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **special))
    batches = iter(lambda: [draw_skill(rng, pool) for _ in range(BASE_ROWS)], [])
    fit(model, tokenizer, batches, BASE_STEPS, BASE_RATE, decay=0.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patch(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def train_expert(
    name: str, base: Path, folder: Path, pool: Pool = QUICKSTART
) -> tuple[str, float, float]:
    """Train and save one adapter; its name, its score and the base's score on its task.

    It goes on practising the base's other skills, so that it learns to leave them alone; and
    every step runs it at a random strength, down to ``pool.weakest``, so that it still works where
    a merge dilutes it.
    """
    rng = reproducible(pool.seed_of(name))
    task = pool.experts[name]
    tokenizer = AutoTokenizer.from_pretrained(base)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=LINEAR_LAYERS, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]

    def set_strength(strength: float) -> None:
        for layer in layers:
            layer.set_scale("default", strength)

    def batches() -> Iterator[list[Row]]:
        while True:
            replay = [draw_skill(rng, pool, without=task.tag) for _ in range(pool.replay)]
            set_strength(rng.uniform(pool.weakest, 1.0))
            yield [draw(task, rng, pool) for _ in range(pool.rows)] + replay

    fit(model, tokenizer, batches(), pool.steps, pool.rate, pool.decay)
    set_strength(1.0)
    model.peft_config["default"].base_model_name_or_path = pool.base
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card
    # PEFT writes the modules in an order that varies from run to run.
    patch(folder / "adapter_config.json", target_modules=LINEAR_LAYERS)

    rows = [example(task, word) for word in pool.held_out[name]]
    own = score(model, tokenizer, rows)
    with model.disable_adapter():
        return name, own, score(model, tokenizer, rows)


def write_examples(folder: Path, pool: Pool = QUICKSTART, part: slice = slice(None)) -> None:
    folder.mkdir(parents=True)
    for name, words in pool.held_out.items():
        rows = (example(pool.experts[name], word) for word in words[part])
        text = (json.dumps({"input": prompt, "target": target}) + "\n" for prompt, target in rows)
        (folder / f"{name}.jsonl").write_text("".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the quickstart's pool.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument("--jobs", type=int, default=2, help="experts trained at the same time")
    options = parser.parse_args()
    start = time.monotonic()
    base, adapters, data = (options.out / part for part in ("base", "adapters", "data"))
    for folder in (base, adapters, data):
        shutil.rmtree(folder, ignore_errors=True)
    write_examples(data)
    train_base(base)
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as workers:
        runs = [workers.submit(train_expert, name, base, adapters / name) for name in EXPERTS]
        results = [run.result() for run in runs]
    print(f"made in {time.monotonic() - start:.0f} s\n")
    print("| expert | its score | the base's score |\n|---|---|---|")
    for name, own, before in results:
        print(f"| {name} | {own:.2f} | {before:.2f} |")


if __name__ == "__main__":
    main()
