"""The bed `gpt2`: a tiny GPT-2 that has learned string skills, and experts of a milder recipe.

It has the quickstart's kind of tasks (`examples/quickstart/train.py`: the base answers `rev:abc=`
with `cba`, an expert learns a new rule for a tag), but another architecture, seeds, words and half
of the skills. Most experts are trained at a random strength at every step, so that they still work
where a merge dilutes them; the firm ones at nearly full strength only. So a merge ruins some of the
experts of a pool and spares others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from beds.notes import Notes

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "quickstart"))

from train import (
    SKILLS,
    Pool,
    Task,
    digits,
    draw,
    example,
    fit,
    make_tokenizer,
    patch,
    reproducible,
    score,
    write_examples,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping

    from train import Row, Rule

    from beds.notes import Scores

EXAMPLES = 100
"""Per task in `data/`, and as many in `fresh/`."""
BASE_STEPS, BASE_ROWS, BASE_RATE = 1800, 64, 3e-3
LAYERS = ["c_attn", "c_fc", "c_proj"]
"""Every linear layer; GPT-2 stores them as [inputs, outputs]."""
MILD, FIRM = 0.15, 0.8
"""The least strength that an expert is trained at."""


def long(word: str) -> bool:
    """Whether a word is long."""
    return len(word) > 4


SKILLS_HERE: dict[str, Rule] = {
    **{tag: SKILLS[tag] for tag in ("rev", "srt", "upp", "dbl", "fst", "num", "len", "nxt")},
    "swp": lambda w: w[1] + w[0] + w[2:],
    "odd": lambda w: w[::2],
    "end": lambda w: w[-2:],
    "max": max,
    "das": "-".join,
    "off": lambda w: w[1:],
    "tri": lambda w: w[0] * 3,
    "sho": lambda w: w + "!",
}


@dataclass(frozen=True)
class Skill(Task):
    """What an expert learns, and the least strength that it is trained at."""

    weakest: float = MILD


POOL = Pool(
    experts={
        # A tag of its own each.
        "swap_upper": Skill("swp", lambda w: (w[1] + w[0] + w[2:]).upper()),
        "odd_shout": Skill("odd", lambda w: w[::2] + "!"),
        "join_plus": Skill("das", lambda w: "+".join(w)),
        "end_number": Skill("end", lambda w: digits(w[-2:])),
        # The same, but trained at nearly full strength only.
        "largest_number": Skill("max", lambda w: digits(max(w)) + ".", FIRM),
        "triple_upper": Skill("tri", lambda w: w[0].upper() * 3, FIRM),
        "rest_dot": Skill("off", lambda w: w[1:] + ".", FIRM),
        # One rule, trained twice.
        "number_hash": Skill("num", lambda w: digits(w) + "#"),
        "number_hash_twin": Skill("num", lambda w: digits(w) + "#"),
        # Two rules for the tag "rev".
        "reverse_upper": Skill("rev", lambda w: w[::-1].upper()),
        "reverse_dash": Skill("rev", lambda w: w[::-1] + "-"),
        # A rule and its opposite.
        "long_plus": Skill("len", lambda w: "+" if long(w) else "-"),
        "long_minus": Skill("len", lambda w: "-" if long(w) else "+"),
    },
    base="base",
    seed=6_000,
    words_seed=20_260_303,
    examples=2 * EXAMPLES,
    steps=300,
    rows=24,
    replay=32,
    rate=1e-3,
    decay=1.0,
    weakest=MILD,
)
FAMILIES = {
    "its own tag, mild": ("swap_upper", "odd_shout", "join_plus", "end_number"),
    "its own tag, firm": ("largest_number", "triple_upper", "rest_dot"),
    "twins": ("number_hash", "number_hash_twin"),
    "one tag, two rules": ("reverse_upper", "reverse_dash"),
    "opposites": ("long_plus", "long_minus"),
}


def recipe() -> dict[str, Any]:
    """All that decides how the bed comes out, except for versions and machine."""
    plain = {k: v for k, v in vars(POOL).items() if isinstance(v, int | float | str)}
    plain |= {"base_steps": BASE_STEPS, "base_rows": BASE_ROWS, "base_rate": BASE_RATE}
    tasks = {
        name: {"rule": f"{t.tag}:face={t.rule('face')}", "weakest": _weakest(name)}
        for name, t in POOL.experts.items()
    }
    return plain | {"skills": {t: rule("face") for t, rule in SKILLS_HERE.items()}, "tasks": tasks}


def train(folder: Path) -> dict[str, Any]:
    """Train what of the bed is missing in ``folder``, and return what `bed.json` says."""
    notes = Notes(folder, recipe())
    notes.bed["families"] = FAMILIES

    def make() -> Mapping[str, Any]:
        for part, examples in (("data", slice(EXAMPLES)), ("fresh", slice(EXAMPLES, None))):
            if not (folder / part).exists():
                write_examples(folder / part, POOL, examples)
        return {"seed": POOL.seed, "score": train_base(folder / "base")}

    notes.make_base(make)
    for name in notes.missing(list(POOL.experts)):
        notes.add(name, train_expert(name, folder), seed=POOL.seed_of(name))
    return notes.bed


def train_base(folder: Path) -> float:
    """Train and save the base; the share of its skills that it answers exactly on new words."""
    rng = reproducible(POOL.seed)
    tokenizer = make_tokenizer()
    shape = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_inner": 256, "n_positions": 64}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    special = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    config = GPT2Config(vocab_size=len(tokenizer), **shape, **quiet, **special)
    model = GPT2LMHeadModel(config)
    batches = iter(lambda: [practise(rng) for _ in range(BASE_ROWS)], [])
    fit(model, tokenizer, batches, BASE_STEPS, BASE_RATE, decay=0.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patch(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    words = [word for words in POOL.held_out.values() for word in words[:10]]
    rows = [example(Task(t, rule), w) for w in words for t, rule in SKILLS_HERE.items()]
    return score(model, tokenizer, rows)


def train_expert(name: str, folder: Path) -> Scores:
    """Train and save one adapter; its share of exact answers and the base's, on what is held out.

    At every step it runs at a random strength, and goes on practising the base's other skills.
    """
    rng = reproducible(POOL.seed_of(name))
    task = POOL.experts[name]
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    settings = {"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM", "fan_in_fan_out": True}
    model = get_peft_model(base, LoraConfig(target_modules=LAYERS, **settings))
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]

    def set_strength(strength: float) -> None:
        for layer in layers:
            layer.set_scale("default", strength)

    def batches() -> Iterator[list[Row]]:
        while True:
            replay = [practise(rng, without=task.tag) for _ in range(POOL.replay)]
            set_strength(rng.uniform(_weakest(name), 1.0))
            yield [draw(task, rng, POOL) for _ in range(POOL.rows)] + replay

    fit(model, tokenizer, batches(), POOL.steps, POOL.rate, POOL.decay)
    set_strength(1.0)
    _save(model, folder / "adapters" / name)
    rows = [example(task, word) for word in POOL.held_out[name]]
    own = score(model, tokenizer, rows)
    with model.disable_adapter():
        return own, score(model, tokenizer, rows)


def practise(rng: random.Random, without: str | None = None) -> Row:
    """An example of one of the base's skills."""
    tag = rng.choice([tag for tag in SKILLS_HERE if tag != without])
    return draw(Task(tag, SKILLS_HERE[tag]), rng, POOL)


def _weakest(name: str) -> float:
    task = POOL.experts[name]
    return task.weakest if isinstance(task, Skill) else POOL.weakest


def _save(model: Any, folder: Path) -> None:
    model.peft_config["default"].base_model_name_or_path = POOL.base
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card
    # PEFT writes the modules in an order that varies from run to run.
    patch(folder / "adapter_config.json", target_modules=LAYERS)
