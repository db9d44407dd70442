"""``mergegate init``: a first gate file for a folder of experts."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.plain_text import say
from pytest_mergegate.common.statuses import Exit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from pytest_mergegate.cli.first_gate.experts import LeftOut
    from pytest_mergegate.cli.first_gate.proposal import Proposal
    from pytest_mergegate.cli.parser import Commands
    from pytest_mergegate.common.findings import Finding

_MOST = 20
"""Lines of one kind; the gate file has them all."""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    text = "write a gate file for a folder of adapters or checkpoints"
    init = commands.add_parser("init", help=text, description=f"{text.capitalize()}.")
    init.add_argument("folder", type=Path, metavar="DIR", help="the folder that holds the experts")
    init.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="the gate file (default: mergegate.yaml in DIR; beside DIR where it is part of a "
        "project, as adapters/ is)",
    )
    init.add_argument("--base", metavar="REF", help="a folder, or org/name on the hub")
    init.add_argument("--force", action="store_true", help="overwrite a gate file that is there")
    init.add_argument(
        "--no-check", action="store_true", help="do not run the preflight stage on what was written"
    )
    init.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Write the gate file; returns the exit code. Raises UsageError."""
    from pytest_mergegate.cli.first_gate.experts import find_experts
    from pytest_mergegate.cli.first_gate.place import gate_path
    from pytest_mergegate.cli.first_gate.proposal import propose_for
    from pytest_mergegate.cli.first_gate.text import gate_text
    from pytest_mergegate.common.errors import GateError
    from pytest_mergegate.common.files.writing import Unwritten, write_file

    if not chosen.folder.is_dir():
        raise UsageError(f"there is no folder {chosen.folder}")
    folder = chosen.folder.resolve()
    try:
        path = gate_path(folder, chosen.output, force=chosen.force)
    except GateError as error:
        raise UsageError(str(error)) from None
    root = path.parent.resolve()
    found = find_experts(folder, root=root)
    try:
        proposal = propose_for(found, folder=folder, root=root, base=chosen.base)
    except GateError as error:
        _err(_left_out(found.left_out, root))
        _err([f"mergegate: {error}"])
        return Exit.UNREADABLE if found.experts else Exit.NOTHING_GATED
    try:
        write_file(path, gate_text(proposal), new=not chosen.force)
    except Unwritten as error:
        raise UsageError(str(error)) from None
    return _report(proposal, path, check=not chosen.no_check)


def _report(proposal: Proposal, path: Path, *, check: bool) -> int:
    """Say what was written, what is wrong with it, and what is next; returns the exit code."""
    from pytest_mergegate.cli.first_gate.check import open_tasks

    tasks = open_tasks(proposal)
    _out(_written(proposal, path))
    _out(_left_out(proposal.left_out, proposal.root))
    _out(f"to do: {task}" for task in _cut(tasks))
    if check and proposal.open_tasks:
        _out(["not checked: that has to be done first"])
        check = False
    sound = _check(proposal, path) if check else True
    where = shlex.quote(_from_here(path))
    _out(["next: " + f"mergegate check {where}", "  or: " + f"pytest --mergegate {where}"])
    broken = any(out.broken for out in proposal.left_out)
    return Exit.UNREADABLE if tasks or broken or not sound else Exit.PASSED


def _written(proposal: Proposal, path: Path) -> Iterator[str]:
    from pytest_mergegate.common.plain_text import shown

    entries = proposal.entries
    yield f"wrote {_from_here(path)}: {len(entries)} experts"
    yield f"  base: {shown(proposal.base.reference)} ({proposal.base.why})"
    ready = [entry.inputs for entry in entries if entry.inputs.problem is None]
    labelled = sum(inputs.labelled for inputs in ready)
    yield f"  examples: for {len(ready)} of them, with targets for {labelled}"
    metrics = sorted({entry.metric for entry in entries if entry.metric is not None})
    if metrics:
        yield f"  metric: {', '.join(metrics)}"
    yield f"  budget: {', '.join(line for line, _ in proposal.budget if line[0] != '#')}"


def _left_out(left_out: Iterable[LeftOut], root: Path) -> Iterator[str]:
    from pytest_mergegate.cli.first_gate.bases import relative
    from pytest_mergegate.common.plain_text import shown

    lines = [f"left out: {shown(relative(o.path, root))}: {o.reason}" for o in left_out]
    yield from _cut(lines)


def _check(proposal: Proposal, path: Path) -> bool:
    """Whether preflight finds nothing wrong, as far as it can run without fetching anything."""
    from pytest_mergegate.cli.first_gate.check import check, is_at_hand

    if not is_at_hand(proposal):
        _out([f"not checked: {proposal.base.reference} is on the hub, and not in the cache yet"])
        return True
    findings = check(path)
    wrong = [finding for finding in findings if finding.severity == "error"]
    _out(_cut([f"{finding.severity}: {_said(finding)}" for finding in findings]))
    _out([f"checked: {len(wrong)} errors" if wrong else "checked: preflight finds nothing wrong"])
    return not wrong


def _said(finding: Finding) -> str:
    about = f"{finding.expert}: " if finding.expert else ""
    fix = f" (fix: {finding.fix})" if finding.fix else ""
    return f"{finding.code} {about}{finding.message}{fix}"


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


def _out(lines: Iterable[str]) -> None:
    say(lines)


def _err(lines: Iterable[str]) -> None:
    say(lines, sys.stderr)
