"""The fewest groups that are all forecast to pass, and the fewest experts to leave out.

Of up to a dozen experts the fewest groups are found by dynamic programming over all subsets; trying
each of those would cost too much. The program is solved with what is known, as if all other groups
passed; the groups of its solution are tried, and it is solved again, until all of them are known to
pass. Its solution is then the best, and its size at every step a lower bound.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pytest_mergegate.metrics.exact_partitions import parts_of
from pytest_mergegate.planning.groups import Group, mask_of, members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pytest_mergegate.planning.groups import TriedGroups

LARGEST_EXACT = 12
"""Every subset of so many experts is looked at."""
_PLACES = 4
"""Groups into which an expert of a larger pool is tried."""
_MOST_SUBSETS = 5000
"""Ways to leave out so many experts, of which all are looked at."""


class Grouping(NamedTuple):
    """A pool as a few groups, each forecast to pass when merged."""

    groups: tuple[Group, ...]
    at_least: int
    """Fewer groups than these do not do, as far as a group that holds a failing one fails."""


def fewest_groups(count: int, trials: TriedGroups) -> Grouping:
    """Put ``count`` experts into few groups that pass; a single expert always does.

    Up to 12 experts the groups are the fewest, unless the trials run out; above they are found
    one expert at a time. ``at_least`` says how far off they may be.
    """
    full = (1 << count) - 1
    if trials.passes(full):
        return Grouping(groups=(members(full),), at_least=1)
    try_pairs(count, trials)
    found = _placed(count, trials)
    if count > LARGEST_EXACT:
        _try_apart(found, trials)
    at_least = _apart(count, trials)
    if count <= LARGEST_EXACT:
        found, at_least = _Subsets(count, trials).fewest(found, at_least)
    found = joined(found, trials)
    return Grouping(
        groups=tuple(sorted(map(members, found))),
        at_least=min(at_least, len(found)),
    )


def try_pairs(count: int, trials: TriedGroups) -> None:
    """Try every pair, the riskiest first, where half of the trials are enough for that: a pair that
    fails rules out more than any larger group."""
    pairs = [mask_of(pair) for pair in combinations(range(count), 2)]
    if 2 * len(pairs) <= trials.left:
        for pair in sorted(pairs, key=lambda mask: -trials.risk(mask)):
            trials.passes(pair)


def _placed(count: int, trials: TriedGroups) -> list[int]:
    """Each expert in the group that it fits best, those that conflict most first."""
    conflict = [
        sum(trials.risk(mask_of((i, j))) for j in range(count) if j != i) for i in range(count)
    ]
    groups: list[int] = []
    for expert in sorted(range(count), key=lambda i: -conflict[i]):
        own = 1 << expert
        places = sorted(
            (k for k, group in enumerate(groups) if not trials.blocked(group | own)),
            key=lambda k: trials.risk(groups[k] | own),
        )
        places = places[: None if count <= LARGEST_EXACT else _PLACES]
        fitting = next((k for k in places if trials.passes(groups[k] | own)), None)
        if fitting is None:
            groups.append(own)
        else:
            groups[fitting] |= own
    return groups


def _try_apart(groups: Sequence[int], trials: TriedGroups) -> None:
    """Try pairs of one expert from each group, who are the likeliest not to go together."""
    picked: list[int] = []
    for group in groups:
        own = members(group)
        picked.append(max(own, key=lambda i: sum(trials.risk(mask_of((i, j))) for j in picked)))
    pairs = [mask_of(pair) for pair in combinations(picked, 2)]
    for pair in sorted(pairs, key=lambda mask: -trials.risk(mask)):
        trials.passes(pair)


def _apart(count: int, trials: TriedGroups) -> int:
    """How many experts were found no two of which go together: as many groups as it takes."""
    failing = {mask for mask, passes in trials.known.items() if not passes}
    largest = 1
    for start in range(count):
        apart = [start]
        for other in range(count):
            if other != start and all(mask_of((other, one)) in failing for one in apart):
                apart.append(other)
        largest = max(largest, len(apart))
    return max(largest, 2 if (1 << count) - 1 in failing else 1)


def joined(groups: Sequence[int], trials: TriedGroups) -> list[int]:
    """The groups, two joined where their union passes though it was taken to fail."""
    found = sorted(groups)
    pairs = sorted(combinations(found, 2), key=lambda pair: trials.risk(pair[0] | pair[1]))
    for one, other in pairs:
        both = one | other
        untried = one in found and other in found and both not in trials.known
        if untried and trials.passes(both, even_so=True):
            found = [group for group in found if group not in (one, other)] + [both]
    return found


class _Subsets:
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


class LeftOut(NamedTuple):
    """One merge of most of the pool."""

    kept: Group
    dropped: Group
    at_least: int
    """Leaving out fewer does not do, as far as a group that holds a failing one fails."""


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
