"""What to put into the gate file: examples, metrics, budgets and methods, each with why."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pytest_mergegate.cli.first_gate.found import (
    FoundBase,
    FoundExpert,
    SkippedFolder,
    find_base,
    relative,
)
from pytest_mergegate.common.errors import GateError, PoolError
from pytest_mergegate.common.files.places import model_file_in
from pytest_mergegate.common.files.reading import open_regular
from pytest_mergegate.common.files.repository import check_contained, top_of
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.spec import FEWEST
from pytest_mergegate.pool.examples import Example, read_examples
from pytest_mergegate.preflight.heads import task_of

NAME = "{name}"
"""Stands for an expert's name where the user says where examples are."""
_SHORT = 40
"""Characters of a target that is right or wrong as a whole."""
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
class ProposedExpert:
    """One expert of the gate, and what is known of its examples."""

    expert: FoundExpert
    file: str
    """Of its examples, from the gate file; where nothing was found, where they should go."""
    examples: tuple[Example, ...] = ()
    problem: str | None = None
    """What has to be done before the gate can run; None where it can."""
    also: tuple[str, ...] = ()
    """Other files that could have been meant."""

    @property
    def count(self) -> int:
        """How many inputs there are."""
        return len({example.question for example in self.examples})

    @property
    def targets(self) -> list[str]:
        """What is scored against."""
        return [target for example in self.examples for target in example.references]

    @property
    def metric(self) -> tuple[str, str] | None:
        """The metric, and why that one; None where there is nothing to score."""
        if not self.targets:
            return None
        if all(example.choices is not None for example in self.examples):
            return "accuracy", "every example has choices; the likeliest is the answer"
        median = int(statistics.median(map(len, self.targets)))
        size = f"{median} characters on the median"
        if median <= _SHORT:
            return "exact_match", f"short targets, {size}: right or wrong"
        return "rouge_l", f"text, {size}: how much is there; answers are compared so, too"

    @property
    def comparison(self) -> tuple[str, str] | None:
        """How answers are compared where nothing else says so: chats are answered in text, of
        which another wording is no other answer; None for exactly."""
        chats = any(not isinstance(example.input, str) for example in self.examples)
        if self.targets or not chats or any(e.choices is not None for e in self.examples):
            return None
        return "rouge_l", "chats, answered in text: an answer counts as far as it is another"


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """All that a gate file is written from."""

    root: Path
    base: FoundBase
    is_headless: bool
    """Whether the base is a backbone, which answers nothing."""
    entries: tuple[ProposedExpert, ...]
    left_out: Sequence[SkippedFolder]

    @property
    def metrics(self) -> tuple[tuple[str, str] | None, ...]:
        """Of every entry."""
        return tuple(None if self.is_headless else entry.metric for entry in self.entries)

    @property
    def budget(self) -> tuple[tuple[str, str], ...]:
        """Lines and their comments; a line that starts with ``#`` is one to uncomment."""
        if self.is_headless and len(self.entries) > 2:
            why = "a guess: MDS is relative to the pool; calibrate it on yours"
            return (("max_mds: 3.0", why),)
        if self.is_headless:
            why = "a guess: two experts have no MDS, and a backbone has no answers to compare"
            return (("max_conflicting_magnitude_ratio: 0.5", why),)
        few = [e.expert.name for e in self.entries if not e.targets or e.count < FEWEST]
        loss = ("max_loss: 10", "and no expert may lose more than 10 % of its score")
        if few:
            some = ", ".join(few[:3]) + (f" and {len(few) - 3} more" if len(few) > 3 else "")
            why = f"percent of the score; first give {some} {FEWEST} examples with targets or more"
            loss = (f"# {loss[0]}", why)
        answered = "at most 30 % of an expert's inputs answered differently"
        return (("max_disagreement: 0.3", answered), loss)

    @property
    def max_answer_tokens(self) -> int | None:
        """The next power of two above the longest answer: a token is seldom less than a character;
        None for a base that decodes nothing."""
        if self.is_headless:
            return None
        examples = [example for entry in self.entries for example in entry.examples]
        answers = [answer for e in examples for answer in (*e.references, *(e.choices or ()))]
        longest = max(map(len, answers), default=0)
        return min(512, max(16, 1 << longest.bit_length())) if longest else 64

    @property
    def unreadable(self) -> tuple[str, ...]:
        """What keeps examples from being read."""
        problems = (entry.problem for entry in self.entries)
        return tuple(shown(problem, 500) for problem in problems if problem is not None)

    @property
    def open_tasks(self) -> tuple[str, ...]:
        """What has to be done before the gate runs as it stands."""
        said = (*self.metrics, *(entry.comparison for entry in self.entries))
        rouge = any(one is not None and one[0] == "rouge_l" for one in said)
        if not rouge or find_spec("rouge_score") is not None:
            return self.unreadable
        install = "the metric rouge_l needs: pip install 'pytest-mergegate[rouge]'"
        return (*self.unreadable, install)


def propose(
    found: Sequence[FoundExpert],
    left_out: Sequence[SkippedFolder],
    *,
    folder: Path,
    root: Path,
    base: str | None,
    examples: str | None = None,
) -> Proposal:
    """Sensible settings for the experts of ``folder``, and nothing that needs what is not there;
    ``base`` where the user names it, and ``examples`` where the user says where they are, with
    ``{name}`` in the place of the expert's name.

    Raises GateError for fewer than two experts, and without a base.
    """
    if not found and model_file_in(folder) is not None:
        fix = "give the folder that holds it and the others"
        raise GateError(f"{folder.name}/ is itself an expert", fix=fix)
    if not found:
        raise GateError(
            f"there is no expert in {folder.name}/",
            fix="give the folder whose folders hold an adapter_config.json, or a config.json and "
            "safetensors",
        )
    chosen = find_base(found, folder=folder, root=root, given=base)
    own = chosen.read.path if chosen.read else None
    experts = [expert for expert in found if expert.path.resolve() != own]
    if len(experts) < 2:
        names = "".join(f", it is {expert.name}" for expert in experts)
        raise GateError(f"a merge takes two experts, there are {len(experts)}{names}")
    # of a base that is not here, what the adapters say
    said: set[object] = {str(expert.config.get("task_type")) for expert in experts}
    tasks = {task_of(chosen.read.config)} if chosen.read else said
    return Proposal(
        root=root,
        base=chosen,
        is_headless=tasks == {"FEATURE_EXTRACTION"},
        entries=tuple(
            _entry(expert, folder=folder, root=root, pattern=examples) for expert in experts
        ),
        left_out=left_out,
    )


def _entry(
    expert: FoundExpert, *, folder: Path, root: Path, pattern: str | None = None
) -> ProposedExpert:
    """With the first of the usual files that is there, or that of ``pattern``, read in full."""
    named = None if pattern is None else Path.cwd() / pattern.replace(NAME, expert.name)
    places = _places(expert, folder=folder, root=root) if named is None else [named]
    there = [path for path in places if path.is_file()]
    if not there:
        file = None if named is None else relative(named, root)
        return _without_examples(expert, places, root, file)
    file = relative(there[0], root)
    examples, problem = _read(there[0], file, expert, root)
    also = tuple(relative(path, root) for path in there[1:])
    return ProposedExpert(expert=expert, file=file, examples=examples, problem=problem, also=also)


def _read(
    path: Path, file: str, expert: FoundExpert, root: Path
) -> tuple[tuple[Example, ...], str | None]:
    """The examples, or what keeps them from being read."""
    try:
        check_contained(path, root=root, expert=None, where=file)
    except PoolError as error:  # nothing of it is looked at, not even for its keys
        return (), str(error)
    try:
        return read_examples(path, expert=expert.name, where=file), None
    except PoolError as error:
        return (), _other_keys(path, file) or f"{file}: {error}"


def _places(expert: FoundExpert, *, folder: Path, root: Path) -> list[Path]:
    """The usual places, each once: beside the gate file, beside the experts, in the expert."""
    around = [(root, expert.name), (folder, expert.name)]
    repository = top_of(root) or root
    if folder.parent.is_relative_to(repository) or repository == root:
        around.append((folder.parent, expert.name))
    around.append((expert.path.parent, expert.path.name))
    kinds = ("data", "examples", "")
    paths = [place / kind / f"{name}.jsonl" for place, name in around for kind in kinds]
    inside = ("examples", expert.path.name, "eval", "validation", "test")
    paths += [expert.path / f"{name}.jsonl" for name in inside]
    # not Path's resolve, which raises for links in a circle
    first = {os.path.realpath(path): path for path in reversed(paths)}
    return [path for path in paths if first[os.path.realpath(path)] is path]


def _without_examples(
    expert: FoundExpert, places: Sequence[Path], root: Path, file: str | None
) -> ProposedExpert:
    file = file or f"data/{expert.name.replace('/', '-')}.jsonl"
    problem = f'{file} is not there: write it, one {{"input": ..., "target": ...}} a line'
    for path in places:
        other = next((p for e in _OTHER_FORMATS if (p := path.with_suffix(e)).is_file()), None)
        if other is not None and other.parent != expert.path:
            problem += f" ({relative(other, root)} is there, but a gate reads JSONL)"
            break
    return ProposedExpert(expert=expert, file=file, problem=problem)


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
