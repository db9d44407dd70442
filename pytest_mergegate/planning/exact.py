"""The fewest groups of up to a dozen experts, by dynamic programming over all subsets.

Trying every subset would cost too much. The program is solved with what is known, as if all other
groups passed; the groups of its solution are tried, and it is solved again, until all of them are
known to pass. Its solution is then the best, and its size at every step a lower bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.metrics.exact_partitions import parts_of
from pytest_mergegate.planning.tried_groups import mask_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_mergegate.planning.tried_groups import TriedGroups


class Subsets:
    """All subsets of ``count`` experts, as bit masks."""

    def __init__(self, count: int, trials: TriedGroups) -> None:
        self._count = count
        self._trials = trials
        self._masks = np.arange(1 << count)
        self._parts = [np.array([0]), *(parts_of(subset) for subset in range(1, 1 << count))]
        risks = np.array([trials.risk(int(mask)) for mask in self._masks])
        worst = float(risks.max())
        # so small that all of them together are less than one group
        self._risk = risks / worst / (2 * count) if worst > 0 else risks

    def fewest(self, found: list[int], at_least: int) -> tuple[list[int], int]:
        """No more groups than those ``found``, and how many it takes at least."""
        while at_least < len(found):
            groups = self._best()
            at_least = max(at_least, len(groups))
            if at_least >= len(found):
                break
            outcome = self._all_pass(groups)
            if outcome:
                return groups, at_least
            if outcome is None:
                break
        return found, at_least

    def _all_pass(self, groups: list[int]) -> bool | None:
        """Whether they do, the riskiest tried first; None where the trials ran out."""
        for group in sorted(groups, key=lambda mask: -self._trials.risk(mask)):
            if not (passes := self._trials.passes(group)):
                return passes
        return True

    def _best(self) -> list[int]:
        """The fewest groups that are not known to fail, of the least risk in sum."""
        cost = 1.0 + self._risk
        known = [mask for mask, passes in self._trials.known.items() if passes]
        cost[known] = 1.0
        for core in self._trials.cores:
            cost[(self._masks & core) == core] = np.inf
        best = np.full(1 << self._count, np.inf)
        best[0] = 0.0
        chosen: NDArray[np.int64] = np.zeros(1 << self._count, dtype=np.int64)
        for subset in range(1, 1 << self._count):
            parts = self._parts[subset]
            total = cost[parts] + best[subset ^ parts]
            pick = int(total.argmin())
            best[subset], chosen[subset] = total[pick], parts[pick]
        groups, rest = [], mask_of(range(self._count))
        while rest:
            groups.append(int(chosen[rest]))
            rest ^= groups[-1]
        return groups
