"""A gate file as text: a comment on every key, odd names quoted, within 100 columns."""

import re
import textwrap
from collections.abc import Iterator

import yaml

from pytest_mergegate.cli.first_gate.experts import relative
from pytest_mergegate.cli.first_gate.proposal import Proposal
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.merge_methods import METHODS
from pytest_mergegate.gate.sections import CertificateSpec, ProbesSpec

SCHEMA = (
    "https://raw.githubusercontent.com/pytest-mergegate/pytest-mergegate/main/docs/"
    "mergegate.schema.json"
)
DOCS = "https://github.com/pytest-mergegate/pytest-mergegate/blob/main/docs"
_WIDTH = 100
_COLUMN = 34
_PLAIN = re.compile(r"(\.\./)*[A-Za-z_][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*", re.ASCII)
_WORDS = frozenset(("y", "yes", "n", "no", "on", "off", "true", "false", "null"))
_HEAD = (
    f"# yaml-language-server: $schema={SCHEMA}\n"
    "# Written by `mergegate init`, and yours to change. What every key means:\n"
    f"# {DOCS}/gate-file.md\n"
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
_BUDGET = ("budget:", f"what may be lost; how to choose: {DOCS}/choosing-a-budget.md")
_MERGE = (
    ("merge:", "the merges that are tried"),
    ("  methods:", "mergekit's names and parameters"),
    *((f"    - {row.proposal[0]}", row.proposal[1]) for row in METHODS.values() if row.proposal),
    ("  weights: uniform", "or optimal, minimax, or a number for each expert"),
    ("  select: any", "one method that keeps every expert is enough; or all"),
)


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
