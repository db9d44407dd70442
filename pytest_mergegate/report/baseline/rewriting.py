"""A baseline written anew: only what this run has computed, and only where it says something else.

Entries of gates that this run did not see, could not compute, or did not compute as deeply, stay.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.files.writing import write_file
from pytest_mergegate.report.baseline.comparable import BY_EXPERT, COMPARED, WHOLE
from pytest_mergegate.report.baseline.reading import Baseline, depth, read_baseline
from pytest_mergegate.report.collected import Collected, reports_json
from pytest_mergegate.report.types import Report
from pytest_mergegate.verdict.increases import moved

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PASSING = frozenset({"created", "versions", "device", "status"})
"""What may differ between two entries that say the same."""


def update_baseline(baseline: Baseline, reports: Iterable[Report]) -> tuple[str, ...]:
    """Rewrite the file with what ``reports`` have found; returns what to tell of it, in lines.

    Raises GateError for a file that has become unreadable meanwhile, or cannot be written.
    """
    # read again: another run may have written to it while this one computed
    found = read_baseline(baseline.path, baseline.root)
    entries = {report.gate: report for report in found.reports or ()}
    counts = {"added": 0, "rewritten": 0, "unchanged": 0}
    kept: list[str] = []
    # of two on one gate, the deeper one
    for key, report in {found.key_of(r): r for r in sorted(reports, key=depth)}.items():
        gate = found.root / report.gate
        old = found.entry(gate)
        if why := _why_not(report, gate, old):
            kept.append(f"baseline {baseline.shown}: {key} is left as it was: {why}")
            continue
        new = _entry(report, key)
        same = old is not None and old.gate == key and _same(_plain(old), _plain(new))
        counts["unchanged" if same else "rewritten" if old else "added"] += 1
        if old is not None and not same:
            entries.pop(old.gate, None)
        if not same:
            entries[key] = new
    if counts["added"] or counts["rewritten"]:
        written = sorted(entries.values(), key=lambda entry: entry.gate)
        write_file(baseline.path, reports_json(Collected(reports=tuple(written))))
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return (*([f"baseline {baseline.shown}: {told}"] if told else []), *kept)


def _why_not(report: Report, gate: Path, old: Report | None) -> str | None:
    if not gate.is_file():
        return "a gate without a file of its own has no entry"
    if report.status == "error":
        return "the gate could not be computed"
    if not depth(report):
        return "this run computed nothing to compare with"
    if old is not None and depth(old) > depth(report):
        return "this run did not go as deep (remove the entry to have it written anew)"
    return None


def _entry(report: Report, key: str) -> Report:
    """What there is to compare, and none of what changes from run to run or with the budget."""
    settings = report.settings
    kept: dict[str, Any] = {
        section: {name: settings[section][name] for name in names}
        for section, names in COMPARED.items()
    }
    kept |= {name: settings[name] for name in (*WHOLE, *BY_EXPERT) if name in settings}
    return Report(
        status="inconclusive",  # nothing is judged here
        gate=key,
        created=report.created,
        versions=report.versions,
        device=report.device,
        seconds={},
        settings=kept,
        base=report.base,
        experts=report.experts,
        pairs=tuple(pair.model_copy(update={"layers": {}}) for pair in report.pairs),
        merges=report.merges,
        predictions=report.predictions,
    )


def _plain(report: Report) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(report.to_json())
    return {key: value for key, value in data.items() if key not in _PASSING}


def _same(one: Any, other: Any) -> bool:
    """Whether two entries say the same but for round-off."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _same(one[key], other[key]) for key in one if key != "digest"
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return not moved(one, other)
    return bool(one == other)
