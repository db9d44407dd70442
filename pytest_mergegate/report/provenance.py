"""When, with what and under which settings a report came about."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.spec import ExpertSpec, Positions
    from pytest_mergegate.pool.pool import Pool


def now() -> str:
    """This moment in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("pytest-mergegate", "torch", "transformers", "peft", "mergekit", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def gate_settings(
    gate: Gate, positions: Positions | None, probes: int, pool: Pool | None
) -> dict[str, Any]:
    """The settings of a gate that its numbers depend on.

    ``positions`` are those at which states were read, None where none were; ``probes`` how many of
    each task were drawn in the end; ``pool`` is None where it could not be read.
    """
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
    settings["probes"]["drawn_per_task"] = probes
    settings["dtype"] = gate.spec.dtype
    settings["score"] = {n: e.score for n, e in gate.spec.experts.items() if e.score is not None}
    settings["metric"] = {name: expert.metric for name, expert in gate.spec.experts.items()}
    settings["examples"] = dict(pool.examples_fingerprint) if pool else {}
    settings["reading"] = {name: _reading(expert) for name, expert in gate.spec.experts.items()}
    if gate.mergekit is not None and gate.mergekit.why_official:
        settings["mergekit"] = dict(gate.mergekit.config)
    return settings


def _reading(expert: ExpertSpec) -> dict[str, Any]:
    """How answers are read, beside the metric."""
    return {name: how for name, how in expert.how_read.items() if name != "metric"}
