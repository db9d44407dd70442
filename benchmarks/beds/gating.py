"""Gate pools of a bed, and keep both reports of every pool.

A bed is a folder with `base/`, `adapters/NAME/`, `data/NAME.jsonl`, `fresh/NAME.jsonl` and
`bed.json`. Every pool is gated twice: on `data`, for the scores, and on `fresh`, for the loss that
those have to predict. The reports go to `reports/POOL.data.json.gz` and
`reports/POOL.fresh.json.gz`; what is there is not gated again. What PROTOCOL.md says of the gates
is decided here.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.report.types import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    Group = tuple[str, ...]
    Method = str | dict[str, Any]
    Part = Literal["data", "fresh"]

METHODS: tuple[Method, ...] = (
    "linear",
    "slerp",  # karcher, where there are more than two
    {"method": "task_arithmetic", "weight": 1.0},
    {"method": "task_arithmetic", "weight": 0.45},
    {"method": "ties", "density": 0.5},
    {"method": "dare_ties", "density": 0.5},
)
PARTS: tuple[Part, ...] = ("data", "fresh")
INPUTS: Mapping[Part, int] = {"data": 64, "fresh": 20}
"""Of each task, in the certificate."""
COLLAPSE = -30.0
"""Percent: a measured loss worse than this."""
ROUNDING = 1e-9
"""Percent: what is lost to round-off."""
SEED = 7
"""Of the draw of pools."""
GROUPS: Mapping[int, int] = {4: 10, 8: 4}
"""How many groups of each size."""


def is_worse(loss: float, limit: float) -> bool:
    """Whether a loss is worse than ``limit``, both negative percent, by more than round-off."""
    return loss < limit - ROUNDING


def pairs_of(names: Sequence[str], most: int | None, seed: int = SEED) -> list[Group]:
    """Every pair, or a seeded sample of so many of them, in the order of ``names``."""
    pairs = list(combinations(names, 2))
    if most is None or most >= len(pairs):
        return pairs
    chosen = set(random.Random(seed).sample(range(len(pairs)), most))
    return [pair for k, pair in enumerate(pairs) if k in chosen]


def groups_of(
    names: Sequence[str], sizes: Mapping[int, int] = GROUPS, seed: int = SEED
) -> list[Group]:
    """So many different groups of each size, as far as there are so many."""
    rng, order = random.Random(seed), {name: k for k, name in enumerate(names)}
    found: list[Group] = []
    for size, count in sizes.items():
        possible = list(combinations(names, size))
        drawn = rng.sample(possible, min(count, len(possible)))
        found += [tuple(sorted(group, key=order.__getitem__)) for group in drawn]
    return found


def pool_id(group: Group) -> str:
    """What a pool's files are called."""
    return "+".join(group)


def own_of(bed: Path) -> Mapping[str, Any]:
    """What a bed's notes say of its gates, where those differ from the others'."""
    notes = bed / "bed.json"
    return json.loads(notes.read_text(encoding="utf-8")).get("gates", {}) if notes.exists() else {}


def gate_of(
    group: Group,
    part: Part,
    methods: Sequence[Method] = METHODS,
    own: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The gate on one pool, on one half of the examples."""
    metrics = own.get("metrics", {})
    methods = own.get("methods", methods)
    merge: dict[str, Any] = {
        "methods": ["karcher" if m == "slerp" and len(group) > 2 else m for m in methods]
    }
    if part == "data":
        merge["surrogate"] = "always"
    return {
        "base": "base",
        "experts": {
            name: {"path": f"adapters/{name}"}
            | ({"metric": metrics[name]} if name in metrics else {})
            for name in group
        },
        "examples": f"{part}/{{name}}.jsonl",
        "probes": {"per_task": 5, "max_answer_tokens": own.get("answer_tokens", 16)},
        # a record rests on all of its inputs, however clear the first of them are
        "certificate": {"per_task": own.get("inputs", INPUTS)[part], "sequential": False},
        "budget": {"max_disagreement": 0.3, "max_loss": -COLLAPSE},
        "merge": merge,
    }


@dataclass(frozen=True, kw_only=True)
class Gated:
    """One pool after both of its gates."""

    group: Group
    reports: Mapping[Part, Report]
    error: str | None = None
    """Why a gate gave no numbers."""


def gate(bed: Path, group: Group, methods: Sequence[Method] = METHODS) -> Gated:
    """Gate one pool twice, or read the reports of when it was."""
    reports: dict[Part, Report] = {}
    for part in PARTS:
        file = bed / "reports" / f"{pool_id(group)}.{part}.json.gz"
        if file.exists():
            reports[part] = read_report(file)
        else:
            try:
                reports[part] = _assess(bed, group, part, methods)
            except GateError as error:
                return Gated(group=group, reports=reports, error=str(error))
            write_report(reports[part], file)
        if error := _errors(reports[part]):
            return Gated(group=group, reports=reports, error=error)
    return Gated(group=group, reports=reports)


def gate_all(
    bed: Path,
    groups: Sequence[Group],
    methods: Sequence[Method] = METHODS,
    tell: Callable[[str], None] = lambda line: print(line, flush=True),
) -> dict[str, Any]:
    """Gate all of ``groups``; what `gating.json` says of each: seconds, collapses, or its error."""
    notes = bed / "gating.json"
    said: dict[str, Any] = {}
    for done, group in enumerate(groups, 1):
        start, name = time.monotonic(), pool_id(group)
        gated = gate(bed, group, methods)
        seconds = round(time.monotonic() - start, 1)
        # again each time: another run may gate other pools of the bed meanwhile
        said = json.loads(notes.read_text()) if notes.exists() else {}
        entry: dict[str, Any] = {"size": len(group)}
        entry["seconds"] = max(seconds, said.get(name, {}).get("seconds", 0.0))
        entry |= {"error": gated.error} if gated.error else {"collapsed": collapses(gated)}
        said[name] = entry
        notes.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        tell(f"{done}/{len(groups)} {seconds:.0f} s  {name}: {gated.error or _short(entry)}")
    return said


def collapses(gated: Gated) -> dict[str, list[int]]:
    """Per method, how many experts collapsed on `fresh`, and of how many."""
    found: dict[str, list[int]] = {}
    for merge in gated.reports["fresh"].merges:
        losses = [expert.loss for expert in merge.experts if expert.loss is not None]
        found[merge.method] = [sum(is_worse(loss, COLLAPSE) for loss in losses), len(losses)]
    return found


def read_report(file: Path) -> Report:
    """A report that `write_report` wrote."""
    return Report.from_json(gzip.decompress(file.read_bytes()).decode())


def write_report(report: Report, file: Path) -> None:
    """As JSON, compressed; whole or not at all, so that a run may be killed at any time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".part")
    half.write_bytes(gzip.compress(report.to_json(None).encode(), mtime=0))
    half.replace(file)


def _assess(bed: Path, group: Group, part: Part, methods: Sequence[Method]) -> Report:
    return assess(
        gate_of(group, part, methods, own_of(bed)),
        device="cpu",
        cache=bed / "cache",
        root=bed,
        all_methods=True,
    )


def _errors(report: Report) -> str | None:
    if report.status != "error":
        return None
    return "; ".join(f"{f.code} {f.message}" for f in report.findings if f.severity == "error")


def _short(entry: Mapping[str, Any]) -> str:
    counts: Iterable[tuple[str, list[int]]] = entry["collapsed"].items()
    return "collapsed " + ", ".join(f"{method} {bad}/{of}" for method, (bad, of) in counts)
