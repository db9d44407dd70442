"""When, with what and under which settings a report came about."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.sections import ExpertSpec
    from pytest_mergegate.verdict.evidence import Case


def now() -> str:
    """This moment in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("pytest-mergegate", "torch", "transformers", "peft", "mergekit", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def gate_settings(gate: Gate, case: Case | None) -> dict[str, Any]:
    """The settings of a gate that its numbers depend on, as far as ``case`` knows them; it is None
    where the pool could not be read."""
    positions, drawn = (case.positions, case.probes) if case else (None, None)
    kept = {
        "probes",
        "conflict",
        "certificate",
        "budget",
        "judge",
        "merge",
        "ignore",
        "trust_remote_code",
    }
    settings = gate.spec.model_dump(mode="json", include=kept)
    settings["probes"]["positions"] = positions or gate.spec.probes.positions
    settings["probes"]["drawn_per_task"] = drawn or gate.spec.probes.per_task
    settings["dtype"] = gate.spec.dtype
    settings["score"] = {n: e.score for n, e in gate.spec.experts.items() if e.score is not None}
    settings["metric"] = {name: expert.metric for name, expert in gate.spec.experts.items()}
    settings["examples"] = dict(case.pool.examples_fingerprint) if case else {}
    settings["reading"] = {name: _reading(expert) for name, expert in gate.spec.experts.items()}
    if gate.mergekit is not None and gate.mergekit.why_official:
        settings["mergekit"] = dict(gate.mergekit.config)
    return settings


def _reading(expert: ExpertSpec) -> dict[str, Any]:
    """How answers are read, beside the metric."""
    return {name: how for name, how in expert.how_read.items() if name != "metric"}
