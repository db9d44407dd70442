"""Experts under merges as the tables see them, and Tables 1 to 3: what merging costs each of
them, and whether method or task decides it."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_mergegate.gate.merge_methods import traits_of
from pytest_mergegate.history.calibration.observations import latest
from pytest_mergegate.history.registry.lines import RegistryLine, ScoredExpert
from pytest_mergegate.history.study.tables import Cell, Table

_NAMED: Final = re.compile(r" (weight|density)=")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One expert under one merge of one pool; its loss is known."""

    bed: str
    line: RegistryLine
    expert: ScoredExpert
    name: str
    """The expert's; with its fingerprint where several had the name."""
    partners: tuple[str, ...]
    """Those that it was merged with, and itself."""
    loss: float
    """Percent, negative where the merge is worse."""

    @property
    def method(self) -> str:
        """The method and its parameters, in short; slerp's stand-ins in larger pools are slerp."""
        return traits_of(self.line.method).study_name or _NAMED.sub(" ", self.line.label)

    @property
    def size(self) -> int:
        """How many experts were merged."""
        return len(self.line.experts)

    @property
    def pool(self) -> str:
        """Which experts were merged, whatever the method."""
        return f"{self.bed}|{self.line.pool}"


def points_of(bed: str, lines: Iterable[RegistryLine]) -> tuple[Point, ...]:
    """Every expert of every merge, as it was found last, without those whose loss is not known."""
    merges = latest(lines).values()
    known = {(one.name, one.fingerprint) for line in merges for one in line.experts}
    count = Counter(name for name, _ in known)

    def called(one: ScoredExpert) -> str:
        return one.name if count[one.name] == 1 else f"{one.name} {_short(one.fingerprint)}"

    return tuple(
        Point(
            bed=bed,
            line=line,
            expert=expert,
            name=called(expert),
            partners=tuple(map(called, line.experts)),
            loss=expert.loss,
        )
        for line in merges
        for expert in line.experts
        if expert.loss is not None
    )


def by_base(name: str, lines: Iterable[RegistryLine]) -> dict[str, tuple[Point, ...]]:
    """The points of every base that a registry knows; experts of two have nothing to compare."""
    bases: dict[str, list[RegistryLine]] = {}
    for line in lines:
        bases.setdefault(line.base, []).append(line)
    told = {base: name if len(bases) == 1 else f"{name}, base {_short(base)}" for base in bases}
    return {told[base]: points_of(told[base], of) for base, of in bases.items()}


def _short(fingerprint: str) -> str:
    return fingerprint.rpartition(":")[2][:8]


def methods_of(points: Iterable[Point]) -> tuple[str, ...]:
    """The methods, in the order in which they come."""
    return tuple(dict.fromkeys(point.method for point in points))


def largest_pool(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points of the pool with the most experts; of several, the first."""
    most = max(point.size for point in points)
    pool = next(point.pool for point in points if point.size == most)
    return tuple(point for point in points if point.pool == pool)


@dataclass(frozen=True, kw_only=True)
class Anova:
    """One way: does the mean differ between groups by more than within them?"""

    f: float
    p: float
    groups: int
    values: int


def anova(values: Sequence[float], groups: Sequence[Hashable]) -> Anova | None:
    """One-way analysis of variance; None where groups are fewer than two, or nothing varies."""
    from scipy.stats import f_oneway

    of: dict[Hashable, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        of[group].append(value)
    if len(of) < 2 or len(values) <= len(of) or not any(map(varies, of.values())):
        return None
    f, p = f_oneway(*of.values())
    return Anova(f=float(f), p=float(p), groups=len(of), values=len(values))


def varies(values: npt.ArrayLike) -> bool:
    """Whether numbers differ by more than round-off."""
    found = np.asarray(values, dtype=np.float64)
    return bool(np.ptp(found) > 1e-9 * np.abs(found).max()) if found.size else False


def spread(losses: Sequence[float], digits: int = 1) -> str | None:
    """Mean and standard deviation, which divides by n; None for no losses."""
    if not losses:
        return None
    return f"{np.mean(losses):.{digits}f} ± {np.std(losses):.{digits}f}"


def p_value(p: float) -> str:
    """Three digits, and an exponent only where it takes one."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def table_1(bed: str, points: Sequence[Point]) -> Table:
    """Mean and standard deviation of the losses."""
    losses: dict[tuple[str, int], list[float]] = defaultdict(list)
    for point in points:
        losses[point.method, point.size].append(point.loss)
    sizes = sorted({point.size for point in points})
    rows: list[list[Cell]] = [
        [method, *(spread(losses[method, size]) for size in sizes)] for method in methods_of(points)
    ]
    counts = [max(len(of) for (_, n), of in losses.items() if n == size) for size in sizes]
    rows.append(["points of a method", *counts])
    names = ["pairs" if size == 2 else f"pools of {size}" for size in sizes]
    return Table(
        key="table_1",
        title=f"Table 1, {bed}. Merging loss in percent: mean ± standard deviation over experts",
        columns=dict.fromkeys(["method", *names]),
        rows=rows,
        notes=("Negative where the merge is worse; the standard deviation divides by n.",),
    )


def table_2(bed: str, points: Sequence[Point]) -> Table:
    """Every expert of the largest pool under every method."""
    rows: list[list[Cell]] = []
    pool = largest_pool(points)
    for point in pool:
        expert = point.expert
        scores = (expert.score_base, expert.score_expert, expert.score_merged)
        rows.append([point.method, point.name, *scores, point.loss])
    digits = {"base": 3, "fine-tuned": 3, "merged": 3, "loss": 1}
    return Table(
        key="table_2",
        title=f"Table 2, {bed}. Scores of a largest pool, {pool[0].size} experts; loss in percent",
        columns={"method": None, "expert": None, **digits},
        rows=rows,
        labels=2,
    )


def table_3(bed: str, points: Sequence[Point]) -> Table:
    """Whether the losses differ by method, and by task."""
    factors: dict[str, Callable[[Point], str]] = {
        "method": lambda point: point.method,
        "task": lambda point: point.name,
    }
    rows: list[list[Cell]] = []
    for what, of in (("the largest pool", largest_pool(points)), ("all pools", points)):
        for factor, group in factors.items():
            found = anova([p.loss for p in of], [group(p) for p in of])
            told: list[Cell] = [None] * 4
            if found is not None:
                told = [found.groups, found.values, found.f, p_value(found.p)]
            rows.append([what, factor, *told])
    return Table(
        key="table_3",
        title=f"Table 3, {bed}. One-way ANOVA of the losses, by method and by task",
        columns={**dict.fromkeys(["points of", "factor", "groups", "points"]), "F": 2, "p": None},
        rows=rows,
        labels=2,
        notes=("Points share experts and pools; p takes them for independent.",),
    )
