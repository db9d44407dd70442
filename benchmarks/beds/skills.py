"""The bed `skills`: a tiny Llama and fourteen experts, of which some ruin each other.

It has the quickstart's kind of base and skills (`examples/quickstart/train.py`), but seeds, tasks
and a recipe of its own: full strength at every step, so that an average can dilute an expert away.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "quickstart"))

from train import (
    Pool,
    Task,
    digits,
    train_base,
    train_expert,
    write_examples,
)

from beds.notes import Notes

EXAMPLES = 100
"""Per task in `data/`, and as many in `fresh/`."""


def sign(word: str) -> str:
    """Whether a word is long."""
    return "+" if len(word) > 4 else "-"


BED = Pool(
    experts={
        # One tag each: nobody else has a claim on it.
        "rotate_upper": Task("rol", lambda w: (w[1:] + w[0]).upper()),
        "double_shout": Task("dbl", lambda w: "".join(letter + letter for letter in w) + "!"),
        "number_dot": Task("num", lambda w: digits(w) + "."),
        "capitalise_first": Task("upp", lambda w: w[0].upper() + w[1:]),
        "sort_down": Task("srt", lambda w: "".join(sorted(w, reverse=True))),
        # One rule, trained twice.
        "cut_upper": Task("cut", lambda w: w[:-1].upper()),
        "cut_upper_twin": Task("cut", lambda w: w[:-1].upper()),
        # Three rules for the tag "rev", two for "fst".
        "reverse_upper": Task("rev", lambda w: w[::-1].upper()),
        "reverse_shout": Task("rev", lambda w: w[::-1] + "!"),
        "reverse_number": Task("rev", lambda w: digits(w[::-1])),
        "first_last": Task("fst", lambda w: w[0] + w[-1]),
        "first_twice": Task("fst", lambda w: w[0] + w[0]),
        # A rule and its opposite.
        "long_plus": Task("len", sign),
        "long_minus": Task("len", lambda w: "-" if sign(w) == "+" else "+"),
    },
    base="base",
    seed=4_000,
    words_seed=20_260_101,
    examples=2 * EXAMPLES,
    steps=140,
    rows=40,
    replay=24,
    rate=2e-3,
    decay=0.0,
    weakest=1.0,
)
FAMILIES = {
    "its own tag": ("rotate_upper", "double_shout", "number_dot", "capitalise_first", "sort_down"),
    "twins": ("cut_upper", "cut_upper_twin"),
    "one tag, three rules": ("reverse_upper", "reverse_shout", "reverse_number"),
    "one tag, two rules": ("first_last", "first_twice"),
    "opposites": ("long_plus", "long_minus"),
}


def recipe() -> dict[str, Any]:
    """All that decides how the bed comes out, except for versions and machine."""
    plain = {key: value for key, value in vars(BED).items() if isinstance(value, int | float | str)}
    return plain | {"tasks": {n: f"{t.tag}:face={t.rule('face')}" for n, t in BED.experts.items()}}


def train(folder: Path) -> dict[str, Any]:
    """Train what of the bed is missing in ``folder``, and return what `bed.json` says."""
    notes = Notes(folder, recipe())
    notes.bed["families"] = FAMILIES

    def make() -> dict[str, Any]:
        for part, examples in (("data", slice(EXAMPLES)), ("fresh", slice(EXAMPLES, None))):
            if not (folder / part).exists():
                write_examples(folder / part, BED, examples)
        train_base(folder / "base", BED)
        return {"seed": BED.seed}

    notes.make_base(make)
    for name in notes.missing(list(BED.experts)):
        _, *scores = train_expert(name, folder / "base", folder / "adapters" / name, BED)
        notes.add(name, (scores[0], scores[1]), seed=BED.seed_of(name))
    notes.write()
    return notes.bed
