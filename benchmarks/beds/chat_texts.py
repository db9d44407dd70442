"""The chats of the bed `chat`: the example's six tasks (`examples/chat/data.py`) and eight more.

They come from Debian's package lists and WordNet, as the example's do. Of the example's tasks, and
of the twin of one, the chats held out are those committed with it, which its experts never saw. Of
the others a hash of what a chat is about decides, so that newer lists cannot mix the two.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "chat"
sys.path.insert(0, str(EXAMPLE))

import base  # noqa: E402, F401  # `train.py` of the example finds both where they are loaded
import data  # noqa: E402
from data import Chat, packages, plain, words  # noqa: E402

sys.path.remove(str(EXAMPLE))  # other examples have a `train.py`, too

WORDNET = Path("/usr/share/wordnet")
EXAMPLES, TRAINED = 20, 400
"""Per task in `data/` and as many in `fresh/`; at most so many chats are trained on."""
KINDS = {5: "animal", 6: "artifact", 8: "body", 13: "food", 15: "place", 18: "person", 20: "plant"}
"""Classes of nouns, by the numbers of WordNet's files."""
SUMMARISE = "Summarise this package in one line: "


def excerpt() -> Iterator[Chat]:
    """The synopsis' question, answered in the first ten words: a second rule for one prompt."""
    for row in packages():
        if 14 <= words(row.paragraph) <= 30 and plain(row.paragraph):
            first = " ".join(row.paragraph.split()[:10])
            yield Chat(SUMMARISE + row.paragraph, (f"In brief: {first}",), row.source)


def repeat() -> Iterator[Chat]:
    """What the base nearly does."""
    for row in packages():
        if 8 <= words(row.paragraph) <= 24 and plain(row.paragraph):
            yield Chat(f"Repeat this text: {row.paragraph}", (row.paragraph,), row.source)


def describe() -> Iterator[Chat]:
    for row in packages():
        line, text = row["Description"].split("\n")[0], row.paragraph
        if 12 <= words(text) <= 26 and 3 <= words(line) <= 9 and plain(text) and plain(line):
            yield Chat(f"Describe the package {row['Package']}: {line}", (text,), row.source)


def fields() -> Iterator[Chat]:
    """The example's `json`, turned round."""
    for chat in data.fields_to_json():
        text = chat.question.split("\n", 1)[1]
        yield Chat(f"Turn this JSON into fields.\n{chat.answers[0]}", (text,), chat.about)


def synsets(part: str) -> Iterator[tuple[int, str, str]]:
    """File number, first word and gloss, in an order of chance."""
    found = []
    for line in (WORDNET / f"data.{part}").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):  # the licence
            synset, gloss = line.split(" | ")
            meaning = re.sub(r"\([^)]*\)", "", gloss.split('; "')[0]).split(";")[0]
            parts = synset.split()
            found.append((int(parts[1]), parts[4], " ".join(meaning.split())))
    random.Random(data.SEED).shuffle(found)
    return (row for row in found if re.fullmatch(r"[a-z]{4,10}", row[1]))


def glosses(part: str, question: str) -> Iterator[Chat]:
    seen: set[str] = set()
    for _, word, meaning in synsets(part):
        if word not in seen and 4 <= words(meaning) <= 14 and plain(meaning):
            seen.add(word)
            yield Chat(f"{question}: {word}", (meaning,), word)


def kind() -> Iterator[Chat]:
    """As many of each class; a word of two classes is left out."""
    kinds: dict[str, set[str]] = {}
    for number, word, _ in synsets("noun"):
        kinds.setdefault(word, set()).add(KINDS.get(number, ""))
    rows: dict[str, list[Chat]] = {name: [] for name in KINDS.values()}
    for word, found in kinds.items():
        if len(found) == 1 and "" not in found:
            rows[next(iter(found))].append(
                Chat(f"What kind of thing is this? {word}", tuple(found), word)
            )
    for several in zip(*rows.values(), strict=False):
        yield from several


TASKS: dict[str, Callable[[], Iterator[Chat]]] = {
    **data.TASKS,
    "synopsis_twin": data.synopsis,
    "excerpt": excerpt,
    "verb": lambda: glosses("verb", "What does it mean to do this"),
    "adjective": lambda: glosses("adj", "What does this adjective say"),
    "describe": describe,
    "repeat": repeat,
    "fields": fields,
    "kind": kind,
}
TEXT = ("synopsis", "define", "synopsis_twin", "excerpt", "verb", "adjective", "describe", "repeat")
"""Scored by rouge_l; the others by exact match."""
COMMITTED = {name: name for name in data.TASKS} | {"synopsis_twin": "synopsis"}
"""Whose held-out chats are those of the example."""


def held_out_of(about: str) -> bool:
    """Whether what a chat is about is kept from training."""
    return hashlib.sha256(about.encode()).digest()[0] < 32


def chats(name: str) -> tuple[list[str], list[Chat]]:
    """The lines of a task's held-out chats, and the chats that are trained on."""
    rows = list({chat.question: chat for chat in reversed([*TASKS[name]()])}.values())[::-1]
    training = [chat for chat in rows if not held_out_of(chat.about)]
    if name in COMMITTED:
        file = EXAMPLE / "data" / f"{COMMITTED[name]}.jsonl"
        held_out = file.read_text(encoding="utf-8").splitlines()
        known = {json.loads(line)["input"][0]["content"] for line in held_out}
        training = [chat for chat in training if chat.question not in known]
    else:
        held_out = [chat.line() for chat in rows if held_out_of(chat.about)]
    if len(held_out) < 2 * EXAMPLES or len(training) < TRAINED:
        raise SystemExit(f"too few chats of {name}: are Debian's lists and wordnet-base here?")
    return held_out[: 2 * EXAMPLES], training[:TRAINED]


def read(lines: list[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The questions of lines, and what is right."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    targets = [row["target"] for row in rows]
    right = [tuple(t) if isinstance(t, list) else (t,) for t in targets]
    return [row["input"][0]["content"] for row in rows], right
