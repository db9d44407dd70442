"""``mergegate init``: a first gate file for a folder of experts, with a comment on every key."""

import argparse
import os
import re
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from pytest_mergegate.cli import Parser
from pytest_mergegate.cli.first_gate.found import SkippedFolder, find_experts, relative
from pytest_mergegate.cli.first_gate.proposal import NAME as EXPERT
from pytest_mergegate.cli.first_gate.proposal import Proposal, propose
from pytest_mergegate.cli.schema import SCHEMA
from pytest_mergegate.common.addresses import SITE
from pytest_mergegate.common.errors import GateError, UsageError
from pytest_mergegate.common.files.writing import Unwritten, write_file
from pytest_mergegate.common.plain_text import say, shown
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.gate.merge_methods import METHODS
from pytest_mergegate.gate.sections import CertificateSpec, ProbesSpec
from pytest_mergegate.report.formats.reading import plural
from pytest_mergegate.stages.preflight import run_preflight

NAME = "mergegate.yaml"
_OF_EXPERTS = {"adapters", "adapter", "loras", "lora", "experts", "checkpoints", "models"}
_BESIDE = ("base", "data", "examples")
_MOST = 20
"""Lines of one kind; the gate file has them all."""
_WIDTH = 100
_COLUMN = 34
_PLAIN = re.compile(r"(\.\./)*[A-Za-z_][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*", re.ASCII)
_WORDS = frozenset(("y", "yes", "n", "no", "on", "off", "true", "false", "null"))
_HEAD = (
    f"# yaml-language-server: $schema={SCHEMA}\n"
    "# Written by `mergegate init`, and yours to change. What every key means:\n"
    f"# {SITE}/gate-file/\n"
)
_SAMPLED, _COMPARED = ProbesSpec(), CertificateSpec()
_PROBES = (
    ("probes:", "inputs on which hidden states are compared"),
    (f"  per_task: {_SAMPLED.per_task}", "of every expert's examples"),
    (f"  seed: {_SAMPLED.seed}", "by which they are drawn"),
)
_CERTIFICATE = (
    ("certificate:", "bounds the disagreement, labels or not"),
    (f"  per_task: {_COMPARED.per_task}", "inputs of each expert, or as many as there are"),
    (f"  confidence: {_COMPARED.confidence}", "of the bound"),
)
_BUDGET = ("budget:", f"what may be lost; how to choose: {SITE}/choosing-a-budget/")
_MERGE = (
    ("merge:", "the merges that are tried"),
    ("  methods:", "mergekit's names and parameters"),
    *((f"    - {row.proposal[0]}", row.proposal[1]) for row in METHODS.values() if row.proposal),
    ("  weights: uniform", "or optimal, minimax, or a number for each expert"),
    ("  select: any", "one method that keeps every expert is enough; or all"),
)


def add_to(init: Parser) -> None:
    """Declare the arguments."""
    init.add_argument("folder", type=Path, metavar="DIR", help="the folder that holds the experts")
    told = "mergegate.yaml in DIR; beside DIR where it is part of a project, as adapters/ is"
    init.add_argument(
        "--output", type=Path, metavar="PATH", help=f"the gate file (default: {told})"
    )
    init.add_argument("--base", metavar="REF", help="a folder, or org/name on the hub")
    told = "where the examples are, such as 'data/{name}.jsonl'; {name} is each expert's"
    init.add_argument("--examples", metavar="PATTERN", help=told)
    init.add_argument("--force", action="store_true", help="overwrite a gate file that is there")
    told = "do not run the preflight stage on what was written"
    init.add_argument("--no-check", action="store_true", help=told)


def run(chosen: argparse.Namespace) -> int:
    """Write the gate file; returns the exit code. Raises UsageError."""
    if not chosen.folder.is_dir():
        raise UsageError(f"there is no folder {chosen.folder}")
    if chosen.examples is not None and EXPERT not in chosen.examples:
        fix = f"write {EXPERT} where the expert's name stands, as in 'data/{EXPERT}.jsonl'"
        raise UsageError(f"--examples: {chosen.examples} is one file for all experts", fix=fix)
    folder = chosen.folder.resolve()
    path = _place(folder, chosen.output, force=chosen.force)
    root = path.parent.resolve()
    experts, left_out = find_experts(folder, root=root)
    try:
        proposal = propose(
            experts,
            left_out,
            folder=folder,
            root=root,
            base=chosen.base,
            examples=chosen.examples,
        )
    except GateError as error:
        say([*_left_out(left_out, root), f"mergegate: {error}"], sys.stderr)
        return Exit.UNREADABLE if experts else Exit.NOTHING_GATED
    try:
        write_file(path, gate_text(proposal), new=not chosen.force)
    except Unwritten as error:
        raise UsageError(str(error)) from None
    say(_written(proposal, path))
    sound = chosen.no_check or _is_sound(proposal, path)
    where = shlex.quote(_from_here(path))
    broken = any(out.broken for out in left_out)
    if proposal.open_tasks or broken or not sound:
        say([f"once that is done: mergegate check {where}"])
        return Exit.UNREADABLE
    say([f"next: mergegate check {where}", f"  or: pytest --mergegate {where}"])
    return Exit.PASSED


def _place(folder: Path, output: Path | None, *, force: bool) -> Path:
    """The file to write: beside a folder of nothing but experts, else in it.

    Raises UsageError for one that is there, unless ``force``, and for a name that no gate has.
    """
    if output is None:
        path = (folder.parent if _is_part(folder) else folder) / NAME
    else:
        path = output / NAME if output.is_dir() else output
    if path.name != NAME and not path.name.endswith(f".{NAME}"):
        fix = f"call it {NAME} or SOMETHING.{NAME}; pytest finds no other"
        raise UsageError(f"--output: {path.name} is no name of a gate file", fix=fix)
    if path.is_symlink() or path.is_dir() or (path.exists() and not path.is_file()):
        raise UsageError(f"{path} is there already, and is no regular file", fix="remove it")
    if path.exists() and not force:
        fix = "--force overwrites it, --output PATH writes another"
        raise UsageError(f"{path} is there already", fix=fix)
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", fix="create it first")
    return path


def _is_part(folder: Path) -> bool:
    """Whether a folder is a part of a project that its parent holds the rest of."""
    own, beside = (any((at / n).is_dir() for n in _BESIDE) for at in (folder, folder.parent))
    return folder.name.lower() in _OF_EXPERTS or (beside and not own)


def _written(proposal: Proposal, path: Path) -> Iterator[str]:
    """What was written, and what is left out or to do."""
    entries, base = proposal.entries, proposal.base
    yield f"wrote {_from_here(path)}: {len(entries)} experts"
    yield f"  base: {shown(base.reference)} ({base.why})"
    ready = sum(entry.problem is None for entry in entries)
    labelled = sum(bool(entry.targets) for entry in entries)
    yield f"  examples: for {ready} of them, with targets for {labelled}"
    if metrics := sorted({metric[0] for metric in proposal.metrics if metric is not None}):
        yield f"  metric: {', '.join(metrics)}"
    yield f"  budget: {', '.join(line for line, _ in proposal.budget if line[0] != '#')}"
    yield from _left_out(proposal.left_out, proposal.root)
    if proposal.open_tasks:
        yield f"paths below start at {shown(str(proposal.root), 400)}"
    yield from (f"to do: {task}" for task in _cut(proposal.open_tasks))


def _left_out(left_out: Iterable[SkippedFolder], root: Path) -> Iterator[str]:
    return _cut(f"left out: {shown(relative(o.path, root))}: {o.reason}" for o in left_out)


def _is_sound(proposal: Proposal, path: Path) -> bool:
    """Whether preflight finds nothing wrong, as far as it can run without fetching anything."""
    if proposal.unreadable:
        say(["not checked: that has to be done first"])
        return True
    if proposal.base.read is None and not _is_in_cache(proposal.base.reference):
        say([f"not checked: {proposal.base.reference} is on the hub, and not in the cache yet"])
        return True
    findings = run_preflight(load_gate(path)).findings
    wrong = sum(finding.severity == "error" for finding in findings)
    doubts = sum(finding.severity == "warning" for finding in findings)
    say(_cut(f"{finding.severity}: {finding}" for finding in findings))
    counted = f"{plural(wrong, 'error') if wrong else 'no errors'}, {plural(doubts, 'warning')}"
    nothing = "preflight finds nothing wrong"
    say([f"checked: {counted if wrong or doubts else nothing}"])
    return not wrong


def _is_in_cache(reference: str) -> bool:
    """Whether preflight would fetch nothing: a base on the hub has gigabytes."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = reference.partition("@")
    names = ("config.json", "model.safetensors", "model.safetensors.index.json")
    try:
        config, *weights = (
            isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str)
            for name in names
        )
    except ValueError:  # no repository can be called so
        return False
    return config and any(weights)


def _cut(lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    yield from lines[:_MOST]
    if len(lines) > _MOST:
        yield f"... and {len(lines) - _MOST} more"


def _from_here(path: Path) -> str:
    """A path as one would type it."""
    try:
        short = os.path.relpath(path)
    except ValueError:  # another drive
        return str(path)
    return str(path) if short.startswith("..") else short


def gate_text(proposal: Proposal) -> str:
    """The gate file. Nothing that a stranger named can leave its comment or its quotes."""
    written = (part for line, why in _lines(proposal) for part in _commented(line, why))
    return _HEAD + "".join(f"{line}\n" for line in written)


def scalar(text: str) -> str:
    """``text`` as a YAML string that every version of YAML reads as that text."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    quoted = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30)
    return str(quoted).rstrip("\n")


def _lines(proposal: Proposal) -> Iterator[tuple[str, str]]:
    """Lines of the file and their comments; a line of nothing but spaces is a comment's indent."""
    yield f"base: {scalar(proposal.base.reference)}", proposal.base.why
    if precision := _precision(proposal):
        yield f"dtype: {precision}", "what the base is stored in; float32 takes twice the memory"
    yield "experts:", "what is to be merged; paths start at this file's folder"
    for entry, metric in zip(proposal.entries, proposal.metrics, strict=True):
        yield f"  {scalar(entry.expert.name)}:", ""
        kind = "a PEFT adapter" if entry.expert.is_adapter else "a full checkpoint"
        yield f"    path: {scalar(relative(entry.expert.path, proposal.root))}", kind
        if entry.problem is not None:
            yield "    ", f"to do: {shown(entry.problem, 400)}"
        if entry.also:
            yield "    ", f"also there: {shown(', '.join(entry.also), 200)}"
        said = f"{entry.count} inputs {'with' if entry.targets else 'without'} targets"
        yield f"    examples: {scalar(entry.file)}", said if entry.problem is None else ""
        if metric is not None:
            yield f"    metric: {metric[0]}", metric[1]
        if entry.comparison is not None:
            yield f"    compare: {entry.comparison[0]}", entry.comparison[1]
    for out in proposal.left_out:
        place = shown(relative(out.path, proposal.root))
        yield "  ", f"left out: {place}: {shown(out.reason, 300)}"
    yield from _PROBES
    if proposal.max_answer_tokens is not None:
        tokens = f"  max_answer_tokens: {proposal.max_answer_tokens}"
        yield tokens, "an answer is cut here; room for the longest target"
        yield from _CERTIFICATE
    yield _BUDGET
    yield from ((f"  {line}", why) for line, why in proposal.budget)
    yield from _MERGE


def _precision(proposal: Proposal) -> str | None:
    """The half precision that most of a base's numbers are stored in, where it could be read."""
    sizes: Counter[str] = Counter()
    for header in proposal.base.read.tensors.values() if proposal.base.read is not None else ():
        sizes[header.dtype] += header.size
    [(most, _)] = sizes.most_common(1) or [("", 0)]
    return {"BF16": "bfloat16", "F16": "float16"}.get(most)


def _commented(line: str, comment: str) -> Iterator[str]:
    """The line with its comment behind it, or, where there is no room, above."""
    key = line.strip()
    joined = f"{line.ljust(_COLUMN)}  # {comment}" if comment else line
    if not comment or (key and len(joined) <= _WIDTH):
        yield joined
        return
    indent = line[: len(line) - len(line.lstrip())]
    first, rest = f"{indent}# ", f"{indent}#   "
    yield from textwrap.wrap(
        comment, _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
    if key:
        yield line
