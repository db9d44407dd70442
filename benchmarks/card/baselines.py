"""What the past of an expert predicts, without any score."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from card.beds import Evidence
    from pytest_mergegate.history.study.losses import Point

    Key = tuple[str, ...]


_ALL = ""
"""All pools together."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """The mean loss of the same expert in the other pools of its bed, turned: larger is riskier."""

    label: str
    by_method: bool
    needs: str = "past merges"
    falls: bool = False
    sums: Mapping[Key, Mapping[str, tuple[float, int]]] = field(repr=False)
    """Of every expert: sum and number of its losses in every pool, and in all."""

    def of(self, points: Iterable[Point]) -> npt.NDArray[np.float64]:
        """One number a point; NaN where there is no other pool."""
        return np.array([self._one(point) for point in points], dtype=np.float64)

    def known(self, points: Sequence[Point]) -> list[Point]:
        """The points that have it."""
        there = ~np.isnan(self.of(points))
        return [point for point, known in zip(points, there, strict=True) if known]

    def _one(self, point: Point) -> float:
        pools = self.sums[_key(point, by_method=self.by_method)]
        (total, count), (own, times) = pools[_ALL], pools[point.pool]
        return -(total - own) / (count - times) if count > times else float("nan")


def baselines(found: Evidence) -> tuple[Past, ...]:
    """By expert, and by expert and method."""
    return tuple(
        Past(label=label, by_method=by_method, sums=_sums(found, by_method=by_method))
        for label, by_method in (
            ("the expert's mean elsewhere", False),
            ("its mean under the method elsewhere", True),
        )
    )


def _sums(found: Evidence, *, by_method: bool) -> dict[Key, dict[str, tuple[float, int]]]:
    sums: dict[Key, dict[str, tuple[float, int]]] = defaultdict(dict)
    for point in found.every:
        pools = sums[_key(point, by_method=by_method)]
        for pool in (point.pool, _ALL):
            total, count = pools.get(pool, (0.0, 0))
            pools[pool] = total + point.loss, count + 1
    return sums


def _key(point: Point, *, by_method: bool) -> Key:
    return (point.bed, point.name, point.method) if by_method else (point.bed, point.name)
