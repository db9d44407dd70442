"""One expert under one merge, as the tables see it."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pytest_mergegate.gate.merge_methods import traits_of
from pytest_mergegate.history.calibration.observations import is_collapse, latest
from pytest_mergegate.history.registry.lines import SCORES as NEEDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from pytest_mergegate.history.registry.lines import RegistryLine, ScoredExpert


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
        return pool_of(self.line, self.bed)

    @property
    def merge(self) -> tuple[str, str]:
        """Pool and method."""
        return self.pool, self.method

    @property
    def collapsed(self) -> bool:
        """Whether the expert did."""
        return is_collapse(self.loss)


def pool_of(line: RegistryLine, bed: str) -> str:
    """A name of the pool that is the same for all its merges."""
    return f"{bed}|{line.pool}"


def points_of(bed: str, lines: Iterable[RegistryLine]) -> tuple[Point, ...]:
    """Every expert of every merge, as it was found last, but for those whose loss is not known."""
    merges = latest(lines).values()
    names = _names(merges)
    return tuple(
        Point(
            bed=bed,
            line=line,
            expert=expert,
            name=names[expert.name, expert.fingerprint],
            partners=tuple(names[one.name, one.fingerprint] for one in line.experts),
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


def _names(lines: Iterable[RegistryLine]) -> dict[tuple[str, str], str]:
    """What to call every expert."""
    known = {(one.name, one.fingerprint) for line in lines for one in line.experts}
    count = Counter(name for name, _ in known)
    return {
        (name, mark): name if count[name] == 1 else f"{name} {_short(mark)}" for name, mark in known
    }


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
class Score:
    """A number that is to foretell collapse: the larger, the worse."""

    field: str
    label: str
    falls: bool = False
    """The smaller, the worse."""

    @property
    def needs(self) -> str:
        """What it takes to compute it."""
        return NEEDS[self.field]

    def of(self, points: Iterable[Point]) -> npt.NDArray[np.float64]:
        """One number a point, turned so that larger is riskier; NaN where there is none."""
        raw = [point.expert.score(self.field) for point in points]
        found = np.array([math.nan if value is None else value for value in raw], dtype=np.float64)
        return -found if self.falls else found

    def known(self, points: Sequence[Point]) -> list[Point]:
        """The points that have it."""
        there = ~np.isnan(self.of(points))
        return [point for point, known in zip(points, there, strict=True) if known]


SCORES = (
    Score(field="disagreement", label="disagreement"),
    Score(field="kl", label="KL(expert, merge)"),
    Score(field="relative_distortion", label="relative distortion"),
    Score(field="surrogate", label="surrogate's disagreement"),
    Score(field="surrogate_kl", label="surrogate's KL"),
    Score(field="states", label="states forecast, disagreement"),
    Score(field="states_kl", label="states forecast, KL"),
    Score(field="mds", label="MDS"),
    Score(field="mean_distance", label="mean hidden distance"),
    Score(field="shift", label="shift of the states"),
    Score(field="norm", label="task-vector norm"),
    Score(field="magnitude_change_ratio", label="magnitude change ratio"),
    Score(field="sign_change_ratio", label="sign change ratio"),
    Score(field="conflicting_magnitude_ratio", label="conflicting magnitude ratio"),
    Score(field="cosine", label="cosine (lower is worse)", falls=True),
)


def losses_of(points: Iterable[Point]) -> npt.NDArray[np.float64]:
    """In percent."""
    return np.array([point.loss for point in points], dtype=np.float64)


def collapses_of(points: Iterable[Point]) -> npt.NDArray[np.bool_]:
    """Which points collapsed."""
    return np.array([point.collapsed for point in points], dtype=bool)
