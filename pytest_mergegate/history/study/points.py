"""One expert under one merge, as the tables see it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_mergegate.gate.merge_methods import traits_of
from pytest_mergegate.history.calibration.observations import latest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
        return f"{self.bed}|{self.line.pool}"


def points_of(bed: str, lines: Iterable[RegistryLine]) -> tuple[Point, ...]:
    """Every expert of every merge, as it was found last, but for those whose loss is not known."""
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
