"""Whether the groups of a plan pass once they are merged, and how long planning takes.

    python benchmarks/plan.py                      # pools drawn from the quickstart's experts
    python benchmarks/plan.py BED [--pools N]      # from the experts of another bed
    python benchmarks/plan.py --speed              # 64 experts, from stored states alone

A bed is a folder with base/, adapters/NAME/ and data/NAME.jsonl. Pools of 6 to 8 experts are drawn
at random; every group of two or more that a plan says will pass is gated for real. Each pool's line
is printed as it is done, and all of them are written to --json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from pytest_mergegate import metrics
from pytest_mergegate.cli.plan import verify
from pytest_mergegate.gate.gatefile import Gate, gate_from
from pytest_mergegate.gate.options import Options
from pytest_mergegate.planning.forecaster import Forecaster
from pytest_mergegate.planning.opened_pool import open_pool
from pytest_mergegate.planning.plan import make_plan
from pytest_mergegate.planning.search import Group, TriedGroups, fewest_groups, fewest_left_out

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
METHODS: dict[str, list[Any]] = {
    "any": [
        "linear",
        {"method": "task_arithmetic", "weight": 0.5},
        {"method": "ties", "density": 0.5},
    ],
    "ties": [{"method": "ties", "density": 0.5}],
    "dare_ties": [{"method": "dare_ties", "density": 0.5}],
}
BUDGET = {"max_disagreement": 0.3, "max_loss": 10}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One group that a plan said would pass."""

    pool: tuple[str, ...]
    methods: str
    group: tuple[str, ...]
    method: str
    shares: str
    basis: str
    expected: float
    """How much of its limit the worst expert was forecast to use."""
    status: str


def drawn(bed: Path, pools: int, seed: int) -> list[tuple[str, ...]]:
    """Pools of 6 to 8 of the bed's experts."""
    found = sorted(
        p.name for p in (bed / "adapters").iterdir() if (bed / "data" / f"{p.name}.jsonl").exists()
    )
    rng = np.random.default_rng(seed)
    sizes = rng.integers(6, 9, size=pools)
    return [
        tuple(sorted(rng.choice(found, size=min(size, len(found)), replace=False).tolist()))
        for size in sizes
    ]


def gate_of(bed: Path, names: tuple[str, ...], methods: str, settings: dict[str, Any]) -> Gate:
    """A gate over some of the bed's experts."""
    spec = {
        "base": "base",
        "experts": {name: _expert(name, settings["metric"]) for name in names},
        "budget": BUDGET,
        "merge": {"methods": METHODS[methods]},
        "probes": {"max_answer_tokens": settings["max_answer_tokens"]},
    }
    return gate_from(spec, root=bed)


def _expert(name: str, metric: str) -> dict[str, str]:
    return {"path": f"adapters/{name}", "examples": f"data/{name}.jsonl", "metric": metric}


def run(gate: Gate, methods: str, cache: Path) -> tuple[list[Outcome], float]:
    """Plan, then gate every group that is said to pass; the seconds are those of the plan."""
    start = time.perf_counter()
    options = Options(device="cpu", cache=cache)
    forecaster = Forecaster(*open_pool(gate, options))
    plan = make_plan(forecaster, tuple(gate.spec.experts))
    seconds = time.perf_counter() - start
    print(
        f"{methods}: {', '.join(plan.names)}: {len(plan.groups)} models, at least {plan.at_least}, "
        f"{plan.tried} groups tried, {forecaster.runs.done} runs, {seconds:.1f} s",
        flush=True,
    )
    outcomes = []
    for found in verify(gate, plan.groups, options):
        best = found.group.best
        assert best is not None
        outcomes.append(
            Outcome(
                pool=plan.names,
                methods=methods,
                group=found.group.names,
                method=best.method.label,
                shares=best.shares.kind,
                basis=best.basis,
                expected=best.rank[1],
                status=found.report.status,
            )
        )
        own = outcomes[-1]
        print(
            f"  {own.status}: {', '.join(own.group)} "
            f"({own.method}, {own.shares}, {own.expected:.2f})",
            flush=True,
        )
    return outcomes, seconds


def told(outcomes: list[Outcome]) -> None:
    """How many passed of those that were said to."""
    for methods in (*METHODS, None):
        those = [o for o in outcomes if methods in (None, o.methods)]
        own = {(o.group, o.method, o.shares): o for o in those}.values()
        passed = sum(o.status == "pass" for o in own)
        if own:
            low = float(beta.ppf(0.05, passed, len(own) - passed + 1)) if passed else 0.0
            print(
                f"{methods or 'all'}: {passed} of {len(own)} distinct groups passed "
                f"(at least {low:.0%}, at 95 %)"
            )


class Stored:
    """Groups that pass where their R² is within a budget: the search by itself."""

    def __init__(self, squared: np.ndarray, budget: float) -> None:
        self.squared, self.budget = squared, budget

    def risk(self, group: Group) -> float:
        return float(self.squared[np.ix_(group, group)].sum() / len(group) ** 2)

    def passes(self, group: Group) -> bool:
        own = self.squared[np.ix_(group, group)]
        return metrics.minimum_distortion(own).value <= self.budget


def speed() -> None:
    """Random states of 8 to 64 experts."""
    print("experts  curve s  search s  leave out s  models  at least  tried")
    for count in (8, 12, 24, 64):
        states = np.random.default_rng(count).normal(size=(count, 5))
        squared = ((states[:, None] - states[None]) ** 2).sum(axis=-1)
        trials = TriedGroups(Stored(squared, 2.0), 200)
        marks = [time.perf_counter()]
        metrics.distortion_curve(squared)
        marks.append(time.perf_counter())
        found = fewest_groups(count, trials)
        marks.append(time.perf_counter())
        fewest_left_out(count, trials, found.groups)
        marks.append(time.perf_counter())
        taken = "  ".join(f"{after - before:8.2f}" for before, after in pairwise(marks))
        models, tried = len(found.groups), len(trials.known)
        print(f"{count:7d}  {taken}  {models:6d}  {found.at_least:8d}  {tried:5d}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bed", type=Path, nargs="?", default=QUICKSTART)
    parser.add_argument("--pools", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--max-answer-tokens", type=int, default=16)
    parser.add_argument("--metric", default="exact_match", help="of every expert")
    parser.add_argument("--cache", type=Path, default=Path("build/plan-cache"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--speed", action="store_true")
    chosen = parser.parse_args()
    if chosen.speed:
        speed()
        return
    outcomes: list[Outcome] = []
    settings = {"metric": chosen.metric, "max_answer_tokens": chosen.max_answer_tokens}
    for names in drawn(chosen.bed, chosen.pools, chosen.seed):
        for methods in chosen.methods:
            gate = gate_of(chosen.bed.resolve(), names, methods, settings)
            outcomes += run(gate, methods, chosen.cache.absolute())[0]
            if chosen.json is not None:
                chosen.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    told(outcomes)


if __name__ == "__main__":
    main()
