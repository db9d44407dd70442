"""What to put in the place of the expert that merges worst: the paper's task selection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_mergegate import metrics
from pytest_mergegate.planning.outlook import RANK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.planning.forecaster import Bench
    from pytest_mergegate.planning.outlook import GroupOutlook


@dataclass(frozen=True, kw_only=True)
class Stand:
    """One candidate in the place of one expert."""

    name: str
    outlook: GroupOutlook
    """Of the pool with it."""
    mds: float | None
    """The candidate's in that pool; None where it is not defined."""

    @property
    def by_forecast(self) -> tuple[float, ...]:
        """The surer to pass, the less."""
        best = self.outlook.best
        return RANK[self.outlook.status], best.use if best else math.inf

    @property
    def by_mds(self) -> tuple[float, ...]:
        """The less difficult to merge, the less."""
        return (math.inf if self.mds is None else self.mds,)


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """The candidates for the place of one expert, the best first."""

    order: Literal["forecast", "mds"]
    """``forecast``, or ``mds`` as in the paper: decides who is replaced, and who comes first."""
    replaced: str
    candidates: tuple[Stand, ...]


def find_replacements(
    bench: Bench, whole: GroupOutlook, candidates: Sequence[str]
) -> tuple[Replacement, ...]:
    """The candidates in the place of the expert that the forecast says is worst off, and in that of
    the one whose MDS is largest; the latter only where MDS is defined."""
    found = []
    orders: tuple[tuple[Literal["forecast", "mds"], str | None], ...] = (
        ("forecast", _worst_off(whole)),
        ("mds", _hardest(bench, whole)),
    )
    for order, replaced in orders:
        if replaced is None:
            continue
        stands = [_stand(bench, whole.names, replaced, name) for name in candidates]
        ranked = sorted(stands, key=lambda s: s.by_forecast if order == "forecast" else s.by_mds)
        found.append(Replacement(order=order, replaced=replaced, candidates=tuple(ranked)))
    return tuple(found)


def _worst_off(whole: GroupOutlook) -> str | None:
    worst = whole.best.worst if whole.best is not None else None
    return worst.name if worst is not None else None


def _hardest(bench: Bench, whole: GroupOutlook) -> str | None:
    try:
        scores = bench.difficulty.of(whole.names)
    except metrics.Undefined:
        return None
    return max(scores, key=lambda name: scores[name])


def _stand(bench: Bench, names: Sequence[str], replaced: str, candidate: str) -> Stand:
    pool = [candidate if name == replaced else name for name in names]
    try:
        mds = bench.difficulty.of(pool)[candidate]
    except metrics.Undefined:
        mds = None
    return Stand(name=candidate, outlook=bench.outlook(pool, own_shares=True), mds=mds)
