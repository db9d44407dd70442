"""Whether what was written is a gate, and whether its pool is sound; without torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.cli.first_gate.proposal import Proposal
    from pytest_mergegate.common.findings import Finding


def check(path: Path) -> tuple[Finding, ...]:
    """Load the gate file and run the first stage. Raises GateFileError."""
    return run_preflight(load_gate(path)).findings


def is_at_hand(proposal: Proposal) -> bool:
    """Whether preflight would fetch nothing: a base on the hub has gigabytes."""
    if proposal.base.path is not None:
        return True
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = proposal.base.reference.partition("@")
    names = ("config.json", "model.safetensors", "model.safetensors.index.json")
    try:
        kept = [
            isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str)
            for name in names
        ]
    except ValueError:  # no repository can be called so
        return False
    return kept[0] and any(kept[1:])


def open_tasks(proposal: Proposal) -> tuple[str, ...]:
    """What has to be done before the gate runs as it stands."""
    tasks = [shown(task, 500) for task in proposal.open_tasks]
    metrics = {entry.metric for entry in proposal.entries}
    if "rouge_l" in metrics and find_spec("rouge_score") is None:
        tasks.append("the metric rouge_l needs: pip install 'pytest-mergegate[rouge]'")
    return tuple(tasks)
