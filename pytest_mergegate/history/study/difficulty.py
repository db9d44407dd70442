"""Tables 5 and 6: MDS against the best loss of a group, and replacing the task that it names."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_mergegate.gate.merge_methods import traits_of
from pytest_mergegate.history.study.losses import Point, methods_of, p_value, varies
from pytest_mergegate.history.study.tables import Cell, Table
from pytest_mergegate.metrics import Undefined
from pytest_mergegate.metrics.ranking import spearman

FEWEST = 4
"""Experts of a group, for a correlation over them."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One pool of three experts or more."""

    name: str
    """Its size, and its place among those of the size."""
    points: tuple[Point, ...]

    @property
    def experts(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(dict.fromkeys(point.name for point in self.points))

    def mds(self, expert: str) -> float | None:
        """An expert's; it is the same under every method."""
        return next(p.expert.score("mds") for p in self.points if p.name == expert)

    def best_loss(self, expert: str) -> float:
        """The largest loss of an expert, which is the mildest, over the paper's three methods.

        Over all of them where none of those was run.
        """
        of = [point for point in self.points if point.name == expert]
        three = [point for point in of if traits_of(point.line.method).in_table_5]
        return max(point.loss for point in three or of)

    @property
    def worst_by_mds(self) -> str | None:
        """The one expert with the highest MDS; None where it is not one, or one is unknown."""
        scores = {name: self.mds(name) for name in self.experts}
        known = {name: score for name, score in scores.items() if score is not None}
        worst = [name for name, score in known.items() if score == max(known.values())]
        return worst[0] if len(known) == len(scores) and len(worst) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """MDS against losses over the experts of one group; those of infinite MDS count in ``rho``,
    not in ``r`` and ``p``."""

    r: float
    p: float
    rho: float


def groups_of(points: Iterable[Point]) -> list[Group]:
    """The pools of three and more, the largest first."""
    pools: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        if point.size > 2:
            pools[point.pool].append(point)
    count: Counter[int] = Counter()
    found = []
    for of in sorted(pools.values(), key=lambda of: -of[0].size):
        count[of[0].size] += 1
        found.append(Group(name=f"{of[0].size}-{count[of[0].size]}", points=tuple(of)))
    return found


def fit(scores: Sequence[float], losses: Sequence[float]) -> Fit | None:
    """Pearson's and Spearman's; None where fewer than ``FEWEST`` are finite, or nothing varies."""
    from scipy.stats import pearsonr

    finite = [(s, loss) for s, loss in zip(scores, losses, strict=True) if math.isfinite(s)]
    if len(finite) < FEWEST:
        return None
    x, y = (np.array(each) for each in zip(*finite, strict=True))
    if not varies(x) or not varies(y):
        return None
    try:
        rho = spearman(scores, losses)
    except Undefined:
        return None
    r, p = pearsonr(x, y)
    return Fit(r=float(r), p=float(p), rho=rho)


def fit_group(group: Group) -> Fit | None:
    """MDS against the best loss; None where it cannot be said."""
    scores = [group.mds(name) for name in group.experts]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return None
    return fit(known, [group.best_loss(name) for name in group.experts])


def table_5(bed: str, groups: Iterable[Group]) -> Table:
    """Every group of ``FEWEST`` and more."""
    rows: list[list[Cell]] = []
    for group in groups:
        if len(group.experts) >= FEWEST:
            found = fit_group(group)
            told: list[Cell] = [found.r, p_value(found.p), found.rho] if found else [None] * 3
            rows.append([group.name, len(group.experts), *told])
    return Table(
        key="table_5",
        title=f"Table 5, {bed}. MDS against the best loss of linear, task arithmetic and ties",
        columns={"group": None, "experts": None, "r": 3, "p": None, "Spearman": 3},
        rows=rows,
        notes=("A higher MDS that costs more has a negative r. - : nothing varies, or too few.",),
    )


@dataclass(frozen=True, kw_only=True)
class ReplacedExpert:
    """Two pools that differ in one expert, the one that MDS called the hardest in the first."""

    method: str
    size: int
    out: str
    into: str
    before: float
    """Mean loss of the pool with the expert that went"""
    after: float
    kept_before: float
    """Mean loss of those that are in both pools, in the first"""
    kept_after: float


def replacements(groups: Sequence[Group]) -> list[ReplacedExpert]:
    """What the recorded pools have of the paper's experiment.

    Where the newcomer is the hardest in its turn, the two pools say the same both ways round, and
    nothing of replacing the hardest: they are left out.
    """
    found: list[ReplacedExpert] = []
    for first in groups:
        worst = first.worst_by_mds
        for second in groups:
            own, others = set(first.experts), set(second.experts)
            gone, new = own - others, others - own
            if gone == {worst} and len(new) == 1 and new != {second.worst_by_mds}:
                found += _replaced(first, second, gone.pop(), new.pop())
    return found


def _replaced(first: Group, second: Group, out: str, into: str) -> Iterator[ReplacedExpert]:
    for method in methods_of(first.points):
        pools = [
            {point.name: point.loss for point in group.points if point.method == method}
            for group in (first, second)
        ]
        if pools[1]:
            kept = [[loss for n, loss in of.items() if n not in (out, into)] for of in pools]
            losses = [*(list(of.values()) for of in pools), *kept]
            before, after, kept_before, kept_after = (float(np.mean(of)) for of in losses)
            yield ReplacedExpert(
                method=method,
                size=len(first.experts),
                out=out,
                into=into,
                before=before,
                after=after,
                kept_before=kept_before,
                kept_after=kept_after,
            )


def table_6(bed: str, groups: Sequence[Group]) -> Table:
    """Mean losses before and after the expert of the highest MDS was replaced, by method."""
    found = replacements(groups)
    rows: list[list[Cell]] = []
    keys = ("before", "after", "kept_before", "kept_after")
    for method in dict.fromkeys(one.method for one in found):
        of = [one for one in found if one.method == method]
        means = [float(np.mean([getattr(one, key) for one in of])) for key in keys]
        milder = sum(one.after > one.before for one in of)
        rows.append([method, len(of), *means, f"{milder} of {len(of)}"])
    told = dict.fromkeys(f"{one.out} → {one.into} (of {one.size})" for one in found)
    notes = [
        "kept: the mean over the experts that are in both pools.",
        f"Replaced: {', '.join(told)}.",
    ]
    none = "No two recorded pools differ in just the expert that MDS calls the hardest of one."
    digits = dict.fromkeys(["before", "after", "kept, before", "kept, after"], 1)
    return Table(
        key="table_6",
        title=f"Table 6, {bed}. Mean loss before and after replacing the expert of the highest MDS",
        columns={"method": None, "groups": None, **digits, "milder": None},
        rows=rows,
        notes=notes if found else [none],
    )
