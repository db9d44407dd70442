"""`docs/validation.md`, from the points of a bed."""

from __future__ import annotations

import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from points import COLLAPSE, FEW_INPUTS, INPUTS, is_worse
from scores import SCORES, WEIGHTS, collapsed, rank, ranking

from pytest_mergegate.metrics.ranking import RESAMPLES, rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from points import Point
    from scores import Ranking

    Found = Mapping[str, Mapping[str, Ranking | None]]

ALARM = 0.3
TARGET = 0.95
FEW = 10
"""Points of a kind: an AUROC of fewer says little."""
DILUTION = "averages, small weights"
DILUTING = ("linear", "slerp", "karcher", "task_arithmetic weight=0.45")
PACKAGES = ("pytest-mergegate", "mergekit", "peft", "transformers", "torch", "numpy")


def page(
    command: str,
    bed: Mapping[str, Any],
    families: Mapping[str, Sequence[str]],
    points: Sequence[Point],
    run: Mapping[str, Any],
) -> str:
    """All of it. ``run`` says what the command took: seconds, cores, seeds."""
    kinds = {
        "pairs": [point for point in points if point.size == 2],
        "groups": [point for point in points if point.size > 2],
    }
    kinds = {name: chosen for name, chosen in kinds.items() if chosen}
    found = {name: {s.field: ranking(s, chosen) for s in SCORES} for name, chosen in kinds.items()}
    parts = [
        _head(command, points, kinds),
        _short(kinds, found),
        _reading(points),
        _bed(bed, families),
        _collapses(kinds),
        _within(kinds.get("pairs", ()), families),
        _ranks(found),
        *(_by_method(name, chosen) for name, chosen in kinds.items()),
        _alarms(kinds),
        _bounds(kinds),
        _made(bed, run),
    ]
    return "\n\n".join(parts) + "\n"


def _head(command: str, points: Sequence[Point], kinds: Mapping[str, Sequence[Point]]) -> str:
    pools = " and ".join(
        f"{len({point.pool for point in chosen})} {name}" for name, chosen in kinds.items()
    )
    return f"""# Which score foretells a collapse
Written by `{command}`; do not edit.

A bed of trained experts, {pools} of it, merged by {_methods(points)} methods: {len(points)} points,
each one expert under one merge. A point *collapsed* if the expert lost more than
{-COLLAPSE:.0f} % of its score. Scores are the gate's own (`assess`), from 100 examples a task. The
loss that they have to foretell is measured on 100 others, so that no score has seen the inputs that
it is judged by; the small certificate ({FEW_INPUTS} inputs) is drawn from those others, and judged
by the loss on the first."""


def _methods(points: Sequence[Point]) -> int:
    """Slerp takes two and karcher more: they count as one."""
    return max(len({p.method for p in points if (p.size > 2) == large}) for large in (False, True))


def _short(kinds: Mapping[str, Sequence[Point]], found: Found) -> str:
    lines = ["## In short"]
    for name, chosen in kinds.items():
        ranks = {field: rank for field, rank in found[name].items() if rank}
        main = ranks.get("disagreement")
        if main is None:
            continue
        lines.append(
            f"- {name.capitalize()}: AUROC of the certificate's disagreement {main}; the target of "
            f"{TARGET} is {'met' if main.auroc >= TARGET else '**missed**'}. "
            + "; ".join(
                f"{score.label} {ranks[score.field].auroc:.3f}"
                for score in SCORES[1:]
                if score.field in ranks and score.needs != WEIGHTS
            )
            + f"; {_span([ranks[s.field].auroc for s in SCORES if s.needs == WEIGHTS])} for the "
            "ratios and the cosine of the weights."
        )
        recall, alarms = rates([p.disagreement >= ALARM for p in chosen], collapsed(chosen))
        lines.append(
            f"- {name.capitalize()}, at a disagreement of {ALARM} or more: {recall:.1%} of the "
            f"collapses are caught, and {alarms:.1%} of the kept points raise an alarm."
        )
    return "\n".join(lines)


def _reading(points: Sequence[Point]) -> str:
    diluting = [point for point in points if point.method in DILUTING]
    others = [point for point in points if point.method not in DILUTING]
    return f"""## How to read it
- The disagreement is no forecast: the merge has been made, and its answers are compared with the
  expert's. The experts are right nearly always, and exact match forgives nothing, so an answer that
  changed is a point lost: the AUROC says that {INPUTS} or {FEW_INPUTS} unlabelled inputs are
  enough to see it, and that they need not be the inputs that count. Under a metric that forgives
  other answers the disagreement would cry wolf more often.
- MDS, the hidden distance, the ratios and the cosine are one number for an expert in a pool,
  whatever the method. Over all methods they cannot tell one from another: compare them with the
  other scores method by method. Forecasts know the method's weights, and gain by that over all.
- Experts collapsed in two ways: diluted by averages and small weights ({_percent(diluting)} of
  those points), or through interference and other rules for the same tag ({_percent(others)} of the
  points under the other methods). Nothing in their training prepared them for dilution: even pairs
  of unrelated tasks seldom survive an average, and large groups leave little to be kept.
- This is one base of 0.7M parameters with string rules. What carries over, if anything does, is the
  order of the scores and not the digits."""


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _bed(bed: Mapping[str, Any], families: Mapping[str, Sequence[str]]) -> str:
    lines = ["## The bed", "", "| expert | family | seed | score | base's score |"]
    lines.append("|---|---|---|---|---|")
    family = {name: title for title, names in families.items() for name in names}
    for name, expert in bed["experts"].items():
        numbers = f"{expert['seed']} | {expert['score']:.3f} | {expert['base']:.3f}"
        lines.append(f"| `{name}` | {family.get(name, '')} | {numbers} |")
    return (
        "\n".join(lines)
        + f"""

Scores are exact matches on 200 held-out examples; the base's is on the same rule. The base has
seed {bed["base"]["seed"]}; the tasks and the recipe are in `benchmarks/bed.py`."""
    )


def _collapses(kinds: Mapping[str, Sequence[Point]]) -> str:
    lines = ["## What collapsed", "", "| method | " + " | ".join(kinds) + " |"]
    lines.append("|---" * (len(kinds) + 1) + "|")
    every = [point for chosen in kinds.values() for point in chosen]
    for method in [*dict.fromkeys(point.method for point in every), None]:
        cells = []
        for chosen in kinds.values():
            of = [point for point in chosen if method in (None, point.method)]
            cells.append(f"{collapsed(of).sum()} of {len(of)} ({_percent(of)})" if of else "")
        lines.append(f"| {method or '**all**'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _within(pairs: Sequence[Point], families: Mapping[str, Sequence[str]]) -> str:
    """Shares of collapse of pairs, by what their tasks have in common."""
    family = {name: title for title, names in families.items() for name in names}
    kinds: dict[str, list[Point]] = {}
    for point in pairs:
        a, b = (family.get(name, "") for name in point.pool.split())
        kinds.setdefault(f"both of *{a}*" if a == b else "of two families", []).append(point)
    lines = [f"| pairs | {DILUTION} | other methods |", "|---|---|---|"]
    for kind, of in sorted(kinds.items()):
        split = [[p for p in of if (p.method in DILUTING) == is_so] for is_so in (True, False)]
        lines.append(f"| {kind} | " + " | ".join(_percent(part) for part in split) + " |")
    return "\n".join(lines)


def _percent(points: Sequence[Point]) -> str:
    return f"{collapsed(points).mean():.0%}" if points else ""


def _ranks(found: Found) -> str:
    lines = ["## How well each score ranks them", ""]
    lines.append("AUROC over all methods; in brackets the 95 % interval of a bootstrap over pools.")
    lines += ["", "| score | needs | " + " | ".join(found) + " |"]
    lines.append("|---" * (len(found) + 2) + "|")
    missing = []
    for score in SCORES:
        ranks = [ranks[score.field] for ranks in found.values()]
        if any(ranks):
            cells = " | ".join(str(rank or "") for rank in ranks)
            lines.append(f"| {score.label} | {score.needs} | {cells} |")
        else:
            missing.append(score.label)
    if missing:
        lines += ["", f"Not computed in this run: {', '.join(missing)}."]
    return "\n".join(lines)


def _by_method(name: str, points: Sequence[Point]) -> str:
    methods = list(dict.fromkeys(point.method for point in points))
    lines = [f"### {name.capitalize()}, method by method", ""]
    lines += ["| score | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for score in SCORES:
        cells = []
        for method in methods:
            of = [point for point in points if point.method == method]
            found, bad = rank(score, of), collapsed(of)
            few = min(bad.sum(), (~bad).sum()) < FEW
            cells.append("" if found is None else f"({found:.3f})" if few else f"{found:.3f}")
        if any(cells):
            lines.append(f"| {score.label} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"In brackets where fewer than {FEW} points collapsed, or fewer than {FEW} did not.",
    ]
    return "\n".join(lines)


def _alarms(kinds: Mapping[str, Sequence[Point]]) -> str:
    lines = [f"## At a disagreement of {ALARM} or more", ""]
    lines += ["| | collapses caught | kept points that raise an alarm |", "|---|---|---|"]
    for name, chosen in kinds.items():
        caught = rates([p.disagreement >= ALARM for p in chosen], collapsed(chosen))
        lines.append(f"| {name} | " + " | ".join(_rate(rate) for rate in caught) + " |")
    every = [point for chosen in kinds.values() for point in chosen]
    alarm = np.array([point.disagreement >= ALARM for point in every])
    bad = collapsed(every)
    for what, which in (("false alarms", alarm & ~bad), ("missed collapses", ~alarm & bad)):
        of = [every[k] for k in np.flatnonzero(which)]
        if of:
            losses = [-point.fresh_loss for point in of]
            lines += [
                "",
                f"The {len(of)} {what} lost {np.median(losses):.0f} % in the median "
                f"({min(losses):.0f} to {max(losses):.0f} %).",
            ]
    return "\n".join(lines)


def _rate(rate: float) -> str:
    return "none there" if np.isnan(rate) else f"{rate:.1%}"


def _bounds(kinds: Mapping[str, Sequence[Point]]) -> str:
    every = [point for chosen in kinds.values() for point in chosen]
    cases = (
        (INPUTS, "`fresh`, which it had not seen", [(p.fresh_loss, p.certified) for p in every]),
        (INPUTS, "`data`, which has its inputs in it", [(p.loss, p.certified) for p in every]),
        (FEW_INPUTS, "`data`, which it had not seen", [(p.loss, p.few_certified) for p in every]),
    )
    lines = [
        "## The bound",
        "The certificate says at 95 % confidence that no expert loses more than it states.",
        "",
        "| inputs of the certificate | loss measured on | violated |",
        "|---|---|---|",
    ]
    for inputs, where, found in cases:
        broken = sum(is_worse(loss, bound) for loss, bound in found)
        lines.append(f"| {inputs} | {where} | {broken} of {len(found)} ({_of(broken, found)}) |")
    between = [p for p in every if 0 < p.disagreement < 1]
    over = [p for p in between if is_worse(p.fresh_loss, p.certified)]
    if between:
        lines += [
            "",
            f"Where the certificate saw some disagreement but not only that, the first line is "
            f"{len(over)} of {len(between)} ({_of(len(over), between)}), on "
            f"{len({p.expert for p in over})} experts. All gates ask an expert the same inputs, so "
            "these are far fewer independent trials than points. The bound speaks of the "
            "expected loss; a loss measured on 100 unseen examples has an error of its own, which "
            "this counts against the bound.",
        ]
    return "\n".join(lines)


def _of(count: int, of: Sequence[object]) -> str:
    return f"{count / len(of):.1%}"


def _made(bed: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    pools = Counter(run["sizes"])
    sizes = ", ".join(f"{pools[size]} of {size}" for size in sorted(pools))
    return f"""## How it was made
- {datetime.now(UTC):%Y-%m-%d}, {run["cores"]} {platform.machine()} cores, one of them used, no GPU;
  Python {platform.python_version()},
  {versions}.
- Training took {bed["seconds"]:.0f} s, gating {run["seconds"]:.0f} s.
- Seeds: {bed["base"]["seed"]} for the base, one more for each expert (above),
  {bed["recipe"]["words_seed"]} for the held-out words, {run["seed"]} for the groups ({sizes}),
  0 for the probes, for DARE and for the bootstrap ({RESAMPLES} resamples of pools).
- Pools share experts, so they are less independent than the bootstrap takes them to be: the true
  intervals are wider.
- The four ratios and the hidden distance are means over an expert's partners. MDS needs three
  experts. `slerp` takes two experts; larger groups have `karcher` in its place.
- The points are in `points.csv` beside the bed; `benchmarks/validation_points.csv` is a copy."""
