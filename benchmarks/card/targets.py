"""What was aimed at, what was measured, and whether that is enough."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from card.alarms import DEFAULT, default_alarms
from card.beds import experts_of
from card.losses import SPLITS, summary
from card.made import markdown
from card.ranks import rank
from card.scores import SCORES
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from card.beds import Evidence
    from card.losses import Predictions
    from pytest_mergegate.history.study.losses import Point

LOWEST, HIGHEST = 0.85, 0.95
"""Coverage of intervals at 90 %."""
MISSES, FALSE_ALARMS = 0.05, 0.15
AUROCS = {"surrogate": 0.95, "states": 0.88}
LABELS = {score.field: score for score in SCORES}
EXPERTS, POOLS, ARCHITECTURES = 30, 40, 2

_COVERAGE = (
    "That coverage is judged over all beds together, and not bed by bed, was decided after the "
    "numbers were seen; a bed that is outside by itself is named."
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One of them."""

    what: str
    aim: str
    measured: str
    met: bool | None
    """None where it could not be measured."""


def targets(found: Evidence, predictions: Predictions) -> list[Target]:
    """All of them."""
    return [
        _evidence(found),
        *(_coverage(predictions, split) for split in SPLITS),
        _alarms(found, "missed collapses", MISSES, "missed"),
        _alarms(found, "false alarms", FALSE_ALARMS, "false_rate"),
        *(_auroc(found, score) for score in AUROCS),
    ]


def _evidence(found: Evidence) -> Target:
    every = found.every
    pools = {(point.pool, point.size) for point in every}
    kinds = {about.get("architecture") for about in found.about.values()}
    experts, sizes = len(set(experts_of(every))), Counter(size for _, size in pools)
    enough = experts >= EXPERTS and len(pools) >= POOLS and len(kinds) >= ARCHITECTURES
    return Target(
        what="Evidence",
        aim=f"{EXPERTS} experts, {ARCHITECTURES} architectures, {POOLS} pools, of 2, 4 and 8",
        measured=f"{experts} experts, {len(kinds)} architectures, {len(pools)} pools of "
        + ", ".join(str(size) for size in sorted(sizes)),
        met=enough and {2, 4, 8} <= set(sizes),
    )


def _coverage(predictions: Predictions, split: str) -> Target:
    aim = f"{LOWEST:.0%} to {HIGHEST:.0%} of all"
    what = f"Coverage of 90 % intervals from the disagreement, {split} left out"
    of: dict[str, float] = {}
    for bed in predictions.beds:
        chosen = predictions.of(split, "disagreement", bed)
        if chosen:
            of[bed] = summary(chosen).coverage
    if not of:
        return Target(what=what, aim=aim, measured="there is one bed", met=None)
    every = summary(predictions.of(split, "disagreement")).coverage
    if len(of) > 1:
        of["all"] = every
    beyond = [bed for bed, share in of.items() if not LOWEST <= share <= HIGHEST and bed != "all"]
    told = f"; by itself outside: {', '.join(beyond)}" if beyond else ""
    met = LOWEST <= every <= HIGHEST
    return Target(what=what, aim=aim, measured=f"{_percents(of)}{told}", met=met)


def _alarms(found: Evidence, what: str, limit: float, key: str) -> Target:
    of = {bed: getattr(default_alarms(points), key) for bed, points in found.columns.items()}
    return Target(
        what=f"The default gate (disagreement of {DEFAULT} or more, 64 inputs): {what}",
        aim=f"at most {limit:.0%}, each bed and all",
        measured=_percents(of),
        met=all(share <= limit for share in of.values()),
    )


def _auroc(found: Evidence, field: str) -> Target:
    score, limit = LABELS[field], AUROCS[field]
    of = {bed: rank(score, points) for bed, points in found.beds.items()}
    told = ", ".join(
        f"{bed} {_three(value)} (ties alone {_three(rank(score, _ties(found, bed)))})"
        for bed, value in of.items()
    )
    known = [value for value in of.values() if value is not None]
    return Target(
        what=f"AUROC of the {score.label}, all methods, ties included",
        aim=f"at least {limit}, each bed",
        measured=told,
        met=len(known) == len(of) and all(value >= limit for value in known),
    )


def _ties(found: Evidence, bed: str) -> list[Point]:
    return [point for point in found.beds[bed] if point.line.method == "ties"]


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percents(of: Mapping[str, float]) -> str:
    return ", ".join(f"{bed} {share:.1%}" for bed, share in of.items())


def targets_part(found: Evidence, predictions: Predictions) -> str:
    """A table of them, and how many were met."""
    every = targets(found, predictions)
    words = {True: "met", False: "**missed**", None: "not measured"}
    rows: list[list[Any]] = [[t.what, t.aim, t.measured, words[t.met]] for t in every]
    heads = dict.fromkeys(["", "target", "measured", "verdict"])
    count = Counter(words[target.met].strip("*") for target in every)
    told = ", ".join(f"{number} {word}" for word, number in count.items())
    table = markdown(Table(key="targets", title="", columns=heads, rows=rows))
    return f"## The targets\n\nSet before the beds were trained: {told}. {_COVERAGE}\n\n{table}"
