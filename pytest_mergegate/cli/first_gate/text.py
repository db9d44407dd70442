"""A gate file as text: a comment on every key, odd names quoted, within 100 columns."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import yaml

from pytest_mergegate.cli.first_gate.bases import relative
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.merge_methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.cli.first_gate.proposal import Entry, Proposal

SCHEMA = (
    "https://raw.githubusercontent.com/pytest-mergegate/pytest-mergegate/main/docs/"
    "mergegate.schema.json"
)
DOCS = "https://github.com/pytest-mergegate/pytest-mergegate/blob/main/docs"
_WIDTH = 100
_COLUMN = 34
_PLAIN = re.compile(r"(\.\./)*[A-Za-z_][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*", re.ASCII)
_WORDS = frozenset(("y", "yes", "n", "no", "on", "off", "true", "false", "null"))


def gate_text(proposal: Proposal) -> str:
    """The gate file. Nothing that a stranger named can leave its comment or its quotes."""
    return "\n".join(_lines(proposal)) + "\n"


def scalar(text: str) -> str:
    """``text`` as a YAML string that every version of YAML reads as that text."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    quoted = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30)
    return str(quoted).rstrip("\n")


def _lines(proposal: Proposal) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA}"
    yield "# Written by `mergegate init`, and yours to change. What every key means:"
    yield f"# {DOCS}/gate-file.md"
    yield from _commented(f"base: {scalar(proposal.base.reference)}", proposal.base.why)
    yield from _commented("experts:", "what is to be merged; paths start at this file's folder")
    for entry in proposal.entries:
        yield from _entry(entry, proposal)
    for out in proposal.left_out:
        yield from _comment(
            f"left out: {shown(relative(out.path, proposal.root))}: {shown(out.reason, 300)}", "  "
        )
    yield from _settings(proposal)


def _entry(entry: Entry, proposal: Proposal) -> Iterator[str]:
    yield f"  {scalar(entry.expert.name)}:"
    kind = "a PEFT adapter" if entry.expert.is_adapter else "a full checkpoint"
    path = scalar(relative(entry.expert.path, proposal.root))
    yield from _commented(f"    path: {path}", kind)
    inputs = entry.inputs
    if inputs.problem is not None:
        yield from _comment(f"to do: {shown(inputs.problem, 400)}", "    ")
    if inputs.also:
        yield from _comment(f"also there: {shown(', '.join(inputs.also), 200)}", "    ")
    said = f"{inputs.count} inputs {'with' if inputs.labelled else 'without'} targets"
    file = f"    examples: {scalar(inputs.file)}"
    yield from _commented(file, said if inputs.problem is None else "")
    if entry.metric is not None:
        yield from _commented(f"    metric: {entry.metric}", entry.why)


def _settings(proposal: Proposal) -> Iterator[str]:
    yield from _commented("probes:", "inputs on which hidden states are compared")
    yield from _commented("  per_task: 5", "of every expert's examples")
    yield from _commented("  seed: 0", "by which they are drawn")
    if proposal.max_answer_tokens is not None:
        tokens = f"  max_answer_tokens: {proposal.max_answer_tokens}"
        yield from _commented(tokens, "an answer is cut here; room for the longest target")
        yield from _commented("certificate:", "bounds the disagreement, labels or not")
        yield from _commented("  per_task: 64", "inputs of each expert, or as many as there are")
        yield from _commented("  confidence: 0.95", "of the bound")
    how = f"{DOCS}/choosing-a-budget.md"
    yield from _commented("budget:", f"what may be lost; how to choose: {how}")
    for line, why in proposal.budget:
        yield from _commented(f"  {line}", why)
    yield from _commented("merge:", "the merges that are tried")
    yield from _commented("  methods:", "mergekit's names and parameters")
    for written, what in (row.proposal for row in METHODS.values() if row.proposal):
        yield from _commented(f"    - {written}", what)
    yield from _commented("  weights: uniform", "or optimal, minimax, or a number for each expert")
    yield from _commented("  select: any", "one method that keeps every expert is enough; or all")


def _commented(line: str, comment: str) -> Iterator[str]:
    """The line with its comment behind it, or, where there is no room, above."""
    if not comment:
        yield line
        return
    joined = f"{line.ljust(_COLUMN)}  # {comment}"
    if len(joined) <= _WIDTH:
        yield joined
        return
    yield from _comment(comment, line[: len(line) - len(line.lstrip())])
    yield line


def _comment(text: str, indent: str) -> Iterator[str]:
    first, rest = f"{indent}# ", f"{indent}#   "
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
