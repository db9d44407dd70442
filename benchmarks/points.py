"""Gate pools of a bed and set every score beside the loss that was measured in the end.

A bed is a folder with `base/`, `adapters/NAME/`, `data/NAME.jsonl` and `fresh/NAME.jsonl`. Every
score comes from the examples in `data`; the loss that it has to foretell is measured on those in
`fresh`, which the gate that gave the score did not see. Another gate does it the other way round,
with a small certificate.
"""

from __future__ import annotations

import csv
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pytest_mergegate import assess
from pytest_mergegate.spec import MergeSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from pytest_mergegate.report.types import Report

    Group = tuple[str, ...]
    Method = str | dict[str, Any]

METHODS: tuple[Method, ...] = (
    "linear",
    "slerp",  # karcher, where there are more than two
    {"method": "task_arithmetic", "weight": 1.0},
    {"method": "task_arithmetic", "weight": 0.45},
    {"method": "ties", "density": 0.5},
    {"method": "dare_linear", "density": 0.5},
    {"method": "dare_ties", "density": 0.5},
)
INPUTS, FEW_INPUTS = 64, 20
"""Of each task, in the certificate and in the small one."""
COLLAPSE = -30.0
"""Percent: a loss worse than this."""
ROUNDING = 1e-9
"""Percent: what is lost to round-off."""
SIZES = range(3, 9)
SURROGATE = "surrogate" in MergeSpec.model_fields
"""Whether this version forecasts with a surrogate of the merge."""
RATIOS = ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio", "cosine")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One expert under one merge of one pool."""

    pool: str
    size: int
    method: str
    expert: str
    loss: float
    """Percent, on `data`, which has the certificate's inputs in it."""
    fresh_loss: float
    """Percent, on `fresh`."""
    disagreement: float
    kl: float
    certified: float
    """The loss, in percent, that the certificate excludes."""
    few_disagreement: float
    """Of the small certificate, on `fresh`."""
    few_certified: float
    relative_distortion: float | None
    surrogate: float | None
    surrogate_kl: float | None
    states: float | None
    states_kl: float | None
    mds: float | None
    distance: float
    """Mean over the expert's partners, as the ratios and the cosine."""
    magnitude_change_ratio: float
    sign_change_ratio: float
    conflicting_magnitude_ratio: float
    cosine: float


def is_worse(loss: float, limit: float) -> bool:
    """Whether a loss is worse than ``limit``, both negative percent, by more than round-off."""
    return loss < limit - ROUNDING


def pairs_of(names: Iterable[str]) -> list[Group]:
    """Every pair."""
    return list(combinations(names, 2))


def groups_of(names: Sequence[str], count: int, seed: int) -> list[Group]:
    """So many different groups of three to eight."""
    rng, found = random.Random(seed), dict[tuple[str, ...], None]()
    while len(found) < count:
        size = SIZES[len(found) % len(SIZES)]
        found[tuple(sorted(rng.sample(list(names), size), key=list(names).index))] = None
    return list(found)


def gate_all(
    bed: Path,
    groups: Sequence[Group],
    methods: Sequence[Method] = METHODS,
    tell: Callable[[str], None] = lambda line: print(line, flush=True),
) -> tuple[list[Point], float]:
    """The points of all ``groups``, and the seconds it took.

    What was computed before comes from the bed's cache; it counts with what it took then.
    """
    notes, found, start = bed / "seconds.json", list[Point](), time.monotonic()
    spent = json.loads(notes.read_text()) if notes.exists() else {}
    for done, group in enumerate(groups, 1):
        began, name = time.monotonic(), " ".join(group)
        new = gate(bed, group, methods)
        found += new
        collapsed = sum(is_worse(point.fresh_loss, COLLAPSE) for point in new)
        spent[name] = max(round(time.monotonic() - began, 1), spent.get(name, 0.0))
        notes.write_text(json.dumps(spent, indent=2) + "\n")
        tell(
            f"{done}/{len(groups)} {time.monotonic() - start:.0f} s  "
            f"{', '.join(group)}: {collapsed} of {len(new)} collapsed"
        )
    return found, sum(spent[" ".join(group)] for group in groups)


def gate(bed: Path, group: Group, methods: Sequence[Method] = METHODS) -> list[Point]:
    """One pool, once for the scores and once for the loss that they have to foretell."""
    ours = ["karcher" if m == "slerp" and len(group) > 2 else m for m in methods]
    scored = _assess(bed, group, ours, "data", INPUTS)
    fresh = _assess(bed, group, ours, "fresh", FEW_INPUTS)
    return list(_points(scored, fresh))


def _assess(
    bed: Path, group: Group, methods: Sequence[Method], examples: str, inputs: int
) -> Report:
    merge: dict[str, Any] = {"methods": list(methods)}
    if SURROGATE and examples == "data":
        merge["surrogate"] = "always"
    report = assess(
        {
            "base": "base",
            "experts": {name: f"adapters/{name}" for name in group},
            "examples": f"{examples}/{{name}}.jsonl",
            "probes": {"max_answer_tokens": 16},
            "certificate": {"per_task": inputs},
            "budget": {"max_disagreement": 0.3, "max_loss": -COLLAPSE},
            "merge": merge,
        },
        device="cpu",
        cache=bed / "cache",
        root=bed,
    )
    if report.status == "error":
        errors = [f"{f.code} {f.message}" for f in report.findings if f.severity == "error"]
        raise SystemExit("\n".join([f"{', '.join(group)} cannot be gated:", *errors]))
    return report


def _points(scored: Report, fresh: Report) -> Iterable[Point]:
    names = scored.expert_names
    forecasts = {(f.kind, f.method, f.expert): f for f in scored.forecasts}
    experts = {expert.name: expert for expert in scored.experts}
    certified, few_certified = (
        {(p.method, p.expert): p.loss for p in report.predictions} for report in (scored, fresh)
    )
    for merge, again in zip(scored.merges, fresh.merges, strict=True):
        for one, other in zip(merge.experts, again.experts, strict=True):
            at = (merge.method, one.name)
            states, surrogate = (forecasts.get((k, *at)) for k in ("states", "surrogate"))
            expert = experts[one.name]
            partners = [pair for pair in scored.pairs if one.name in (pair.a, pair.b)]
            yield Point(
                pool=" ".join(names),
                size=len(names),
                method=merge.method,
                expert=one.name,
                loss=_known(one.loss),
                fresh_loss=_known(other.loss),
                disagreement=one.disagreement,
                kl=one.kl,
                certified=_known(certified[at]),
                few_disagreement=other.disagreement,
                few_certified=_known(few_certified[at]),
                relative_distortion=one.relative_distortion,
                surrogate=surrogate and surrogate.disagreement,
                surrogate_kl=surrogate and surrogate.kl,
                states=states and states.disagreement,
                states_kl=states and states.kl,
                mds=float("inf") if expert.mds_infinite else expert.mds,
                distance=statistics.mean(_known(pair.distance) for pair in partners),
                **{
                    name: statistics.mean(_known(getattr(pair, name)) for pair in partners)
                    for name in RATIOS
                },
            )


def _known(number: float | None) -> float:
    if number is None:
        raise SystemExit("a number is missing: an expert of the bed must have scored above zero")
    return number


def write_csv(points: Sequence[Point], path: Path) -> None:
    """One line a point; rounded to three digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Point)])
        for point in points:
            values = asdict(point).values()
            writer.writerow([f"{v:.3g}" if isinstance(v, float) else v for v in values])
