"""Real text with classes: package descriptions, docstrings and fortunes.

All of it comes from Debian's package index (`apt-cache dumpavail`), from Python's standard library
and from the `fortunes-*` packages, so that anyone can gather it again. Which half of the examples
a text may serve, or the training, hangs on a hash of its head (what comes before the first bracket
or dash), whoever asks: no training sees what any task holds out, nor its siblings
(`libfoo (documentation)`).
"""

from __future__ import annotations

import ast
import hashlib
import platform
import re
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

PARTS = ("data", "fresh", "train", "train", "train")
LENGTHS = range(15, 121)
"""Characters of a text."""
FORTUNES = {name: f"fortunes-{name}" for name in ("cs", "de", "es", "it")} | {"en": "fortunes"}
NOT_LIBRARY = {"config", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests"}

Marks = frozenset[str]
Part = Literal["data", "fresh", "train"]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text and everything that is known of it: `source::package`, `section::mail`, ..."""

    text: str
    marks: Marks


def part_of(text: str) -> str:
    """Which part a text may serve."""
    head = re.split(r" [-(]|[(:,;]", text.lower(), maxsplit=1)[0]
    return PARTS[int(hashlib.sha256(head.encode()).hexdigest(), 16) % len(PARTS)]


def gather(folder: Path) -> tuple[list[Text], dict[str, str]]:
    """Every text, each once, and the versions of what it comes from; downloads to ``folder``."""
    fortunes, versions = read_fortunes(folder)
    found: dict[str, Text] = {}
    for text in [*read_packages(_index()), *read_docstrings(_library()), *fortunes]:
        if len(text.text) in LENGTHS:
            found.setdefault(text.text, text)
    return list(found.values()), versions | {"python": platform.python_version()}


def digest(texts: list[Text]) -> str:
    """A hash of the texts and their marks."""
    lines = sorted("\t".join([text.text, *sorted(text.marks)]) for text in texts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_packages(index: str) -> list[Text]:
    """The first line of each package's description; its marks are its section and its debtags."""
    found = []
    for paragraph in index.split("\n\n"):
        fields = _fields(paragraph)
        tags = (tag.strip() for tag in fields.get("Tag", "").split(","))
        section = fields.get("Section", "").rpartition("/")[2]
        marks = {"source::package", f"section::{section}", *filter(None, tags)}
        found.append(Text(text=fields.get("Description", ""), marks=frozenset(marks)))
    return found


def _fields(paragraph: str) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    key = ""
    for line in paragraph.split("\n"):
        if line.startswith(" "):
            fields[key] += line
        else:
            key, _, fields[key] = (part.strip() for part in line.partition(":"))
    return fields


def read_docstrings(library: Path) -> list[Text]:
    """The first paragraph of each docstring below the modules; its mark is the top-level one."""
    found = []
    for file in sorted(library.rglob("*.py")):
        names = file.relative_to(library).with_suffix("").parts
        if NOT_LIBRARY.intersection(names) or names[0].startswith("config-"):
            continue
        marks = frozenset({"source::docstring", f"module::{names[0]}"})
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = (ast.get_docstring(node) or "").split("\n\n")[0]
                found.append(Text(text=" ".join(first.split()), marks=marks))
    return found


def read_fortunes(folder: Path) -> tuple[list[Text], dict[str, str]]:
    """The fortunes of five languages, and the version of each package."""
    folder.mkdir(parents=True, exist_ok=True)
    if missing := [name for name in FORTUNES.values() if not list(folder.glob(f"{name}_*.deb"))]:
        subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)
    found, versions = [], dict[str, str]()
    for language, name in FORTUNES.items():
        (package,) = folder.glob(f"{name}_*.deb")
        versions[name] = package.stem.split("_")[1].replace("%3a", ":")
        marks = frozenset({"source::fortune", f"language::{language}"})
        with tempfile.TemporaryDirectory() as unpacked:
            subprocess.run(["dpkg-deb", "-x", str(package), unpacked], check=True)
            found += [Text(text=text, marks=marks) for text in _sayings(Path(unpacked))]
    return found, versions


def _sayings(root: Path) -> list[str]:
    sayings = []
    for file in sorted(path for path in root.rglob("games/fortunes/**/*") if path.is_file()):
        try:
            content = file.read_bytes().decode()
        except UnicodeDecodeError:
            continue  # an index, or an old encoding of what stands there in UTF-8 as well
        if "\0" not in content:
            sayings += [" ".join(saying.split()) for saying in re.split(r"(?m)^%+\s*$", content)]
    return sayings


def _index() -> str:
    command = ["apt-cache", "dumpavail"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))
