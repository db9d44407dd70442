"""The fewest experts to leave out so that the others pass as one merge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from pytest_mergegate.planning.search import try_pairs
from pytest_mergegate.planning.tried_groups import Group, mask_of, members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.planning.tried_groups import TriedGroups

_MOST_SUBSETS = 5000
"""Ways to leave out so many experts, of which all are looked at."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """One merge of most of the pool."""

    kept: Group
    dropped: Group
    at_least: int
    """Leaving out fewer does not do, as far as a group that holds a failing one fails."""

    @property
    def exact(self) -> bool:
        """Whether leaving out fewer does not do."""
        return self.at_least >= len(self.dropped)


def fewest_left_out(
    count: int, trials: TriedGroups, groups: Sequence[Group] = ()
) -> LeftOut | None:
    """The largest group that passes; None where none of two or more was found.

    ``groups`` are some that pass, where the search starts.
    """
    full = (1 << count) - 1
    if trials.passes(full):
        return LeftOut(kept=members(full), dropped=(), at_least=0)
    try_pairs(count, trials)
    known = [mask for mask, passes in trials.known.items() if passes]
    passing = [mask for mask in known if not trials.blocked(mask)]
    passing += [mask_of(group) for group in groups if len(group) > 1]
    best = max(passing, key=lambda mask: (mask.bit_count(), -trials.risk(mask)), default=0)
    if best:
        best = _filled(best, count, trials)
    found, at_least = _larger(best, count, trials)
    if not found:
        return None
    dropped = full ^ found
    return LeftOut(kept=members(found), dropped=members(dropped), at_least=at_least)


def _filled(group: int, count: int, trials: TriedGroups) -> int:
    """The group with every other expert that goes into it, the least risky first."""
    others = [1 << k for k in range(count) if not group >> k & 1]
    for own in sorted(others, key=lambda own: trials.risk(group | own)):
        if trials.passes(group | own):
            group |= own
    return group


def _larger(best: int, count: int, trials: TriedGroups) -> tuple[int, int]:
    """A larger group than ``best`` that passes, if there is one, and what is the least to drop."""
    full = (1 << count) - 1
    most = count - max(2, best.bit_count() + 1)
    for dropped in range(1, most + 1):
        if math.comb(count, dropped) > _MOST_SUBSETS:
            return best, dropped
        rests = [full ^ mask_of(out) for out in combinations(range(count), dropped)]
        open_ones = [rest for rest in rests if not trials.blocked(rest)]
        for rest in sorted(open_ones, key=trials.risk):
            passes = trials.passes(rest)
            if passes is None:
                return best, dropped
            if passes:
                return rest, dropped
    return best, count - best.bit_count() if best else count - 1
