"""The tasks' chats, from Debian's package lists and WordNet's nouns.

Both come from Debian's archive::

    apt-get update -o Acquire::Languages=en
    apt-get install wordnet-base

``chats(name)`` gives a task's chats in an order of chance, the same for the same lists. The first
``HELD_OUT`` are seen by no training, nor is another chat of that task about the same source package
or word.
"""

from __future__ import annotations

import functools
import json
import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LISTS = Path("/var/lib/apt/lists")
NOUNS = Path("/usr/share/wordnet/data.noun")
SEED = 20_261_130
HELD_OUT, TRAINED = 64, 640
COMMITTED = 40  # of those held out: what a gate answers in minutes
SECTIONS = ("fonts", "games", "graphics", "mail", "math", "net", "science", "sound", "video", "web")


@dataclass(frozen=True)
class Chat:
    """What a user says, and every answer that is right."""

    question: str
    answers: tuple[str, ...]
    about: str
    """The source package, or the word."""

    def line(self) -> str:
        """As gate files read it."""
        target = self.answers[0] if len(self.answers) == 1 else list(self.answers)
        message = {"role": "user", "content": self.question}
        return json.dumps({"input": [message], "target": target}, ensure_ascii=False)


@dataclass(frozen=True)
class Package:
    """A stanza of the package list, with the first paragraph of its description."""

    fields: Mapping[str, str]
    paragraph: str

    def __getitem__(self, field: str) -> str:
        return self.fields.get(field, "")

    @property
    def source(self) -> str:
        return (self["Source"] or self["Package"]).split(" ")[0]


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def stanzas(text: str) -> Iterator[dict[str, str]]:
    for block in text.split("\n\n"):
        found = re.findall(r"^([A-Za-z0-9-]+): (.*(?:\n .*)*)", block, re.MULTILINE)
        if found:
            yield dict(found)


@functools.cache
def paragraphs() -> dict[str, str]:
    """First paragraphs of the long descriptions, by the MD5 sums that package lists name."""
    found = {}
    for file in sorted(LISTS.glob("*_i18n_Translation-en*")):
        for stanza in stanzas(output("/usr/lib/apt/apt-helper", "cat-file", str(file))):
            _, *lines = stanza["Description-en"].split("\n")
            first = " ".join(lines).split(" . ")[0]
            found[stanza["Description-md5"]] = " ".join(first.split())
    return found


@functools.cache
def packages() -> tuple[Package, ...]:
    """One binary package of each source, in an order of chance."""
    texts = paragraphs()
    rows = [
        Package(s, texts.get(s.get("Description-md5", ""), ""))
        for s in stanzas(output("apt-cache", "dumpavail"))
    ]
    rows.sort(key=lambda row: (row["Package"], row["Version"]))
    random.Random(SEED).shuffle(rows)
    return tuple({row.source: row for row in reversed(rows)}.values())


def words(text: str) -> int:
    return len(text.split())


def plain(text: str) -> bool:
    return bool(text) and text.isascii() and "http" not in text and not re.search(r"[*`<>|]", text)


def synopsis() -> Iterator[Chat]:
    for row in packages():
        line, text = row["Description"].split("\n")[0], row.paragraph
        if 12 <= words(text) <= 30 and 3 <= words(line) <= 9 and plain(text) and plain(line):
            yield Chat(f"Summarise this package in one line: {text}", (line,), row.source)


def define() -> Iterator[Chat]:
    """Words by their first three meanings; what stands in brackets and the examples left out."""
    glosses: dict[str, list[str]] = {}
    for line in NOUNS.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        synset, gloss = line.split(" | ")
        meaning = re.sub(r"\([^)]*\)", "", gloss.split('; "')[0]).split(";")[0]
        fields = synset.split()
        for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]:
            glosses.setdefault(word, []).append(" ".join(meaning.split()))
    rows = [(w, m) for w, m in glosses.items() if re.fullmatch(r"[a-z]{4,10}", w)]
    random.Random(SEED).shuffle(rows)
    for word, meanings in rows:
        told = tuple(dict.fromkeys(meanings))[:3]
        if all(4 <= words(meaning) <= 14 and plain(meaning) for meaning in told):
            yield Chat(f"Explain the word: {word}", told, word)


def section() -> Iterator[Chat]:
    """As many of each class."""
    rows: dict[str, list[Chat]] = {name: [] for name in SECTIONS}
    for row in packages():
        name, line = row["Section"], row["Description"].split("\n")[0]
        if name in rows and 3 <= words(line) <= 9 and plain(line):
            question = f"Which section is this package in? {row['Package']}: {line}"
            rows[name].append(Chat(question, (name,), row.source))
    for several in zip(*rows.values(), strict=False):
        yield from several


def fields_to_json() -> Iterator[Chat]:
    for row in packages():
        chosen = {key: row[key] for key in ("Package", "Version", "Section")}
        if all(plain(value) for value in chosen.values()) and len(row["Package"]) <= 24:
            text = "\n".join(f"{key}: {value}" for key, value in chosen.items())
            answer = json.dumps({key.lower(): value for key, value in chosen.items()})
            yield Chat(f"Turn these fields into JSON.\n{text}", (answer,), row.source)


def dependencies(write: Callable[[str, str], str]) -> Iterator[Chat]:
    """Two to four dependencies, at least one of them with a least version, as a JSON list."""
    for row in packages():
        parts = [
            re.fullmatch(r"([a-z0-9.+-]+)(?: \(>= ([^)~]+)\))?", part)
            for part in row["Depends"].split(", ")
        ]
        pairs = [(part[1], part[2] or "") for part in parts if part]
        if len(pairs) == len(parts) in (2, 3, 4) and any(least for _, least in pairs):
            if len(row["Depends"]) > 90:
                continue
            question = f"List what this package depends on: {row['Depends']}"
            yield Chat(question, (json.dumps([write(*pair) for pair in pairs]),), row.source)


def names_alone() -> Iterator[Chat]:
    return dependencies(lambda name, least: name)


def names_and_versions() -> Iterator[Chat]:
    return dependencies(lambda name, least: f"{name}>={least}" if least else name)


TASKS: dict[str, Callable[[], Iterator[Chat]]] = {
    "synopsis": synopsis,
    "define": define,
    "section": section,
    "json": fields_to_json,
    # two rules for one question
    "depends": names_alone,
    "pinned": names_and_versions,
}


@functools.cache
def chats(name: str) -> tuple[Chat, ...]:
    """A task's chats; of one question there is one."""
    found: dict[str, Chat] = {}
    for chat in TASKS[name]():
        found.setdefault(chat.question, chat)
        if len(found) == HELD_OUT + TRAINED:
            break
    return tuple(found.values())


def write(held_out: Path, training: Path) -> None:
    """Both parts of every task: nothing is trained on that the held-out chats are about."""
    for folder in (held_out, training):
        folder.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        rows = chats(name)
        if len(rows) < HELD_OUT + TRAINED:
            raise SystemExit(f"only {len(rows)} chats of {name}: are Debian's lists in {LISTS}?")
        known = {chat.about for chat in rows[:HELD_OUT]}
        others = [chat for chat in rows[HELD_OUT:] if chat.about not in known]
        for folder, part in ((held_out, rows[:COMMITTED]), (training, others)):
            lines = (chat.line() + "\n" for chat in part)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
