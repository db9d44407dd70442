"""What the beds are, and what collapsed in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from card.made import markdown
from card.scores import collapses_of
from pytest_mergegate.history.beds import load_beds
from pytest_mergegate.history.calibration.observations import comparison_of, observations
from pytest_mergegate.history.study.losses import methods_of, points_of
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.history.beds import Bed
    from pytest_mergegate.history.calibration.observations import Observation
    from pytest_mergegate.history.study.losses import Point

EVERY = "all"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All points, by bed and together."""

    about: Mapping[str, Mapping[str, Any]]
    beds: Mapping[str, tuple[Point, ...]]
    observed: Mapping[str, tuple[Observation, ...]]
    """The same points, as calibrations see them."""

    @property
    def every(self) -> tuple[Point, ...]:
        """The points of all beds."""
        return tuple(point for points in self.beds.values() for point in points)

    @property
    def columns(self) -> dict[str, tuple[Point, ...]]:
        """Every bed, and all of them where there are several."""
        return {**self.beds, **({EVERY: self.every} if len(self.beds) > 1 else {})}

    def without(self, bed: str) -> tuple[Point, ...]:
        """The points of the other beds."""
        return tuple(point for point in self.every if point.bed != bed)


def evidence(beds: Sequence[Bed] | None = None) -> Evidence:
    """Of the beds that ship, or of some. Raises ValueError where their answers were compared in
    several ways."""
    chosen = load_beds() if beds is None else beds
    observed = {bed.name: observations(bed.lines, bed.name) for bed in chosen}
    comparison_of(one for of in observed.values() for one in of)  # no table mixes two
    return Evidence(
        about={bed.name: bed.about for bed in chosen},
        beds={bed.name: points_of(bed.name, bed.lines) for bed in chosen},
        observed=observed,
    )


def pools_of(points: Sequence[Point]) -> list[str]:
    """A cluster for every point: its pool."""
    return [point.pool for point in points]


def experts_of(points: Sequence[Point]) -> list[str]:
    """A cluster for every point: its expert."""
    return [f"{point.bed} {point.name}" for point in points]


def count_text(found: Evidence) -> str:
    """How much evidence there is, in a sentence."""
    every = found.every
    sizes = Counter(size for _, size in {(point.pool, point.size) for point in every})
    told = ", ".join(f"{sizes[n]} {'pairs' if n == 2 else f'pools of {n}'}" for n in sorted(sizes))
    beds = f"{len(found.beds)} bed" + ("s" if len(found.beds) > 1 else "")
    return (
        f"{beds}, {len(set(experts_of(every)))} experts, {sum(sizes.values())} pools ({told}), "
        f"{len({point.line.id for point in every})} merges, {len(every)} points"
    )


def beds_part(found: Evidence) -> str:
    """A table of the beds, and one of the experts of each."""
    rows: list[list[Any]] = []
    for bed, points in found.beds.items():
        about = found.about[bed]
        sizes = Counter(size for _, size in {(p.pool, p.size) for p in points})
        bad = collapses_of(points)
        rows.append(
            [
                bed,
                about.get("architecture", ""),
                len(set(experts_of(points))),
                sizes[2],
                sum(count for size, count in sizes.items() if size > 2),
                len(points),
                f"{bad.sum()} ({bad.mean():.0%})",
            ]
        )
    heads = ["bed", "architecture", "experts", "pairs", "larger pools", "points", "collapsed"]
    table = Table(key="beds", title="", columns=dict.fromkeys(heads), rows=rows)
    parts = ["## The beds", markdown(table), _not_gated(found)]
    parts += [_experts(bed, found.about[bed]) for bed in found.beds]
    return "\n\n".join(part for part in parts if part)


def _not_gated(found: Evidence) -> str:
    missing = {bed: about.get("not_gated", ()) for bed, about in found.about.items()}
    told = [f"{bed}: {', '.join(pools)}" for bed, pools in missing.items() if pools]
    return f"Pools that could not be gated, and are in no table: {'; '.join(told)}." if told else ""


def _experts(bed: str, about: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", one.get("family", ""), one.get("seed"), one.get("score"), one.get("base")]
        for name, one in about["experts"].items()
    ]
    columns = {"expert": None, "family": None, "seed": None, "score": 3, "base's score": 3}
    table = Table(key="experts", title="", columns=columns, rows=rows, notes=_left_out(about))
    return f"### {bed}\n\n{markdown(table)}"


def _left_out(about: Mapping[str, Any]) -> list[str]:
    gone = about.get("made", {}).get("left_out") or {}
    told = [
        f"`{name}` ({one['score']:.2f}, the base {one['base']:.2f})" for name, one in gone.items()
    ]
    return [
        f"Left out before any gating, for they did not learn enough: {', '.join(told)}."
    ] * bool(told)


def collapses_part(found: Evidence) -> str:
    """The base rate, method by method."""
    rows: list[list[Any]] = []
    for method in [*methods_of(found.every), None]:
        cells = []
        for points in found.columns.values():
            bad = collapses_of([p for p in points if method in (None, p.method)])
            cells.append(f"{bad.sum()} of {len(bad)} ({bad.mean():.0%})" if len(bad) else None)
        rows.append([method or "all methods", *cells])
    table = Table(key="c", title="", columns=dict.fromkeys(["method", *found.columns]), rows=rows)
    return f"## What collapsed\n\n{markdown(table)}"
