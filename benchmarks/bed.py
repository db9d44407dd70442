"""A bed of trained experts to validate scores on: some merge well, some ruin each other.

    python benchmarks/bed.py --out DIR [--jobs N]

It has the quickstart's kind of base and skills (`examples/quickstart/train.py`), but seeds, tasks
and a recipe of its own: full strength at every step, so that an average can dilute an expert away.
DIR gets `base/`, `adapters/NAME/`, `data/NAME.jsonl` (the examples that are gated on),
`fresh/NAME.jsonl` (as many more, which neither training nor a gate has seen) and `bed.json`: the
recipe, every seed and every score. What is there already is kept, so a run that was cut short goes
on. The same machine and versions, the same bytes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "examples" / "quickstart"))

from train import (  # noqa: E402
    Pool,
    Task,
    digits,
    train_base,
    train_expert,
    write_examples,
)

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


def train(folder: Path, jobs: int = 1) -> dict[str, Any]:
    """Train what of the bed is missing in ``folder``, and return what `bed.json` says."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / "bed.json"
    bed: dict[str, Any] = json.loads(notes.read_text()) if notes.exists() else {}
    if bed.setdefault("recipe", recipe()) != recipe():
        raise SystemExit(f"{folder} holds a bed of another recipe: remove it, or name another")
    bed.setdefault("experts", {})

    def note() -> None:
        notes.write_text(json.dumps(bed, indent=2) + "\n")

    start, before = time.monotonic(), bed.get("seconds", 0.0)
    if "base" not in bed:
        for part, examples in (("data", slice(EXAMPLES)), ("fresh", slice(EXAMPLES, None))):
            if not (folder / part).exists():
                write_examples(folder / part, BED, examples)
        print("training the base", flush=True)
        train_base(folder / "base", BED)
        bed |= {"base": {"seed": BED.seed}, "seconds": before + time.monotonic() - start}
        note()
    missing = [name for name in BED.experts if name not in bed["experts"]]
    if not missing:
        return bed
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as workers:
        for name, own, base in workers.map(_train, missing, [folder] * len(missing)):
            bed["experts"][name] = {"seed": BED.seed_of(name), "score": own, "base": base}
            bed["seconds"] = round(before + time.monotonic() - start)
            note()
            print(f"{name}: {own:.2f}, the base {base:.2f}", flush=True)
    return bed


def _train(name: str, folder: Path) -> tuple[str, float, float]:
    return train_expert(name, folder / "base", folder / "adapters" / name, BED)


def recipe() -> dict[str, Any]:
    """All that decides how the bed comes out, but for versions and machine."""
    plain = {key: value for key, value in vars(BED).items() if isinstance(value, int | float | str)}
    return plain | {"tasks": {n: f"{t.tag}:face={t.rule('face')}" for n, t in BED.experts.items()}}


def main() -> None:
    """Train it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--jobs", type=int, default=1, help="experts trained at the same time")
    options = parser.parse_args()
    train(options.out, options.jobs)


if __name__ == "__main__":
    main()
