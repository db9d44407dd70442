"""The examples of an expert: where they lie, and whether the gate can read them."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.cli.first_gate.bases import relative
from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.containment import check_contained
from pytest_mergegate.common.files.git import top_of
from pytest_mergegate.common.files.regular_files import open_regular
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.examples import read_examples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_mergegate.cli.first_gate.experts import FoundExpert
    from pytest_mergegate.pool.examples import Example

_FIRST_LINE = 1 << 20
_OTHER_FORMATS = (".json", ".csv", ".tsv", ".parquet", ".txt")
# the keys of common data sets, and what jq makes of them
_KNOWN = (
    (("messages",), "{input: .messages[:-1], target: .messages[-1].content}"),
    (("instruction", "output"), "{input: .instruction, target: .output}"),
    (("prompt", "completion"), "{input: .prompt, target: .completion}"),
    (("prompt", "response"), "{input: .prompt, target: .response}"),
    (("question", "answer"), "{input: .question, target: .answer}"),
    (("source", "target"), "{input: .source, target: .target}"),
    (("input", "output"), "{input: .input, target: .output}"),
    (("input", "label"), "{input: .input, target: .label}"),
    (("text", "label"), "{input: .text, target: .label}"),
    (("prompt",), "{input: .prompt}"),
    (("question",), "{input: .question}"),
    (("text",), "{input: .text}"),
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is known of one expert's examples."""

    file: str
    """From the gate file; where nothing was found, where they should go."""
    count: int = 0
    labelled: bool = False
    choices: bool = False
    """Whether every example has choices."""
    median: int = 0
    """Characters of a target, on the median."""
    longest: int = 0
    """Characters of the longest target or choice."""
    problem: str | None = None
    """What has to be done before the gate can run; None where it can."""
    also: tuple[str, ...] = ()
    """Other files that could have been meant."""


def find_inputs(expert: FoundExpert, *, folder: Path, root: Path) -> Inputs:
    """The first of the usual files that is there, read in full."""
    there = [path for path in _places(expert, folder=folder, root=root) if path.is_file()]
    if not there:
        return _missing(expert, folder=folder, root=root)
    path, also = there[0], tuple(relative(p, root) for p in there[1:])
    file = relative(path, root)
    try:
        check_contained(path, root=root, expert=None, where=file)
    except PoolError as error:
        return Inputs(file=file, problem=str(error), also=also)
    try:
        examples = read_examples(path, expert=expert.name, where=file)
    except PoolError as error:
        return Inputs(file=file, problem=_other_keys(path, file) or f"{file}: {error}", also=also)
    return _described(examples, file, also)


def _places(expert: FoundExpert, *, folder: Path, root: Path) -> Iterator[Path]:
    """The usual places, each once: beside the gate file, beside the experts, in the expert."""
    seen: set[Path] = set()
    repository = top_of(root) or root.resolve()
    around = [p for p in (root, folder) if p.is_dir()]
    if folder.resolve().parent.is_relative_to(repository) or repository == root.resolve():
        around.append(folder.parent)
    named = [(place, expert.name) for place in around]
    for place, name in [*named, (expert.path.parent, expert.path.name)]:
        for kind in (place / "data", place / "examples", place):
            path = kind / f"{name}.jsonl"
            if (real := path.resolve()) not in seen:
                seen.add(real)
                yield path
    for inside in ("examples", expert.path.name, "eval", "validation", "test"):
        if (path := expert.path / f"{inside}.jsonl").resolve() not in seen:
            seen.add(path.resolve())
            yield path


def _missing(expert: FoundExpert, *, folder: Path, root: Path) -> Inputs:
    file = f"data/{expert.name.replace('/', '-')}.jsonl"
    problem = f'{file} is not there: write it, one {{"input": ..., "target": ...}} a line'
    for path in _places(expert, folder=folder, root=root):
        other = next((p for e in _OTHER_FORMATS if (p := path.with_suffix(e)).is_file()), None)
        if other is not None and other.parent != expert.path:
            problem += f" ({relative(other, root)} is there, but a gate reads JSONL)"
            break
    return Inputs(file=file, problem=problem)


def _other_keys(path: Path, file: str) -> str | None:
    """How to rename the keys of a file whose first line is an object with other ones."""
    try:
        with open_regular(path, expert=None) as opened:
            row = json.loads(opened.readline(_FIRST_LINE))
    except (OSError, ValueError, RecursionError, PoolError):
        return None
    if not isinstance(row, dict) or set(row) <= {"input", "target", "choices"}:
        return None
    keys = shown(", ".join(map(str, row)), 60)
    said = f"{file}: its lines have the keys {keys}, a gate reads input, target and choices"
    mapping = next((jq for known, jq in _KNOWN if set(known) <= set(row)), None)
    if mapping is None:
        return f"{said}; rename them"
    if row.get("input") and "instruction" in row:
        return f"{said}; write the whole prompt, as in training, under input"
    quoted = file.replace("'", "'\\''")
    return f"{said}; for instance: jq -c '{mapping}' '{quoted}' > new.jsonl"


def _described(examples: tuple[Example, ...], file: str, also: tuple[str, ...]) -> Inputs:
    targets = [e.target for e in examples if e.target is not None]
    answers = [*targets, *(choice for e in examples for choice in e.choices or ())]
    return Inputs(
        file=file,
        count=len({example.question for example in examples}),
        labelled=bool(targets),
        choices=all(example.choices is not None for example in examples),
        median=int(statistics.median([len(target) for target in targets])) if targets else 0,
        longest=max((len(answer) for answer in answers), default=0),
        also=also,
    )
