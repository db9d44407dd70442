"""The fewest groups that are all forecast to pass, and the fewest experts to leave out.

Whether a group passes is forecast, and a forecast need not be monotone. A group that holds one
that fails is taken to fail too, and not tried: it almost always does, since more experts neither
raise anyone's weight nor pull any less. What the search ends with is put to the test once more
without that assumption (``joined``).

Of up to a dozen experts the fewest groups are found by dynamic programming over all subsets; trying
each of those would cost too much. The program is solved with what is known, as if all other groups
passed; the groups of its solution are tried, and it is solved again, until all of them are known to
pass. Its solution is then the best, and its size at every step a lower bound.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.metrics.partitions import parts_of
from pytest_mergegate.planning.forecasts import Forecasts

LARGEST_EXACT = 12
"""Every subset of so many experts is looked at."""
_PLACES = 4
"""Groups into which an expert of a larger pool is tried."""
_MOST_SUBSETS = 5000
"""Ways to leave out so many experts, of which all are looked at."""
Group = tuple[int, ...]
"""Experts by their place in the pool, ascending."""


class TriedGroups:
    """The groups tried so far, by bit mask, and how many more may be."""

    def __init__(self, forecasts: Forecasts, most: int, names: Sequence[str] | None = None) -> None:
        """``names`` are those of the experts in the order of their bits, where they have any."""
        self._forecasts = forecasts
        self._most = most
        self._names = names
        self._risks: dict[int, float] = {}
        self.known: dict[int, bool] = {}
        """Whether a group passes."""
        self.cores: list[int] = []
        """The failing groups that hold no other failing one."""

    def named(self, group: Group) -> tuple[Any, ...]:
        """The experts as the forecasts know them."""
        return group if self._names is None else tuple(self._names[k] for k in group)

    @property
    def left(self) -> int:
        """How many groups may still be tried."""
        return self._most - len(self.known)

    def risk(self, mask: int) -> float:
        """The risk of a group; none of a single expert."""
        if mask not in self._risks:
            group = self.named(members(mask))
            self._risks[mask] = self._forecasts.risk(group) if len(group) > 1 else 0.0
        return self._risks[mask]

    def riskiest(self, masks: Iterable[int]) -> list[int]:
        """The groups, the riskiest first."""
        return sorted(masks, key=lambda mask: -self.risk(mask))

    def blocked(self, mask: int) -> bool:
        """Whether a group is known or taken to fail."""
        return any(core & mask == core for core in self.cores)

    def passes(self, mask: int, *, even_so: bool = False) -> bool | None:
        """Whether a group passes; None where no more may be tried.

        ``even_so`` tries a group that holds a failing one, too.
        """
        if mask & (mask - 1) == 0:
            return True
        if mask not in self.known:
            if not even_so and self.blocked(mask):
                return False
            if self.left <= 0:
                return None
            if self._forecasts.passes(self.named(members(mask))):
                self.known[mask] = True
            else:
                self.note_failure(mask)
        return self.known[mask]

    def note_failure(self, mask: int) -> None:
        """A group that is known to fail."""
        self.known[mask] = False
        self.cores = [core for core in self.cores if core & mask != mask]
        self.cores += [] if self.blocked(mask) else [mask]


def members(mask: int) -> Group:
    """The experts of a bit mask."""
    return tuple(index for index in range(mask.bit_length()) if mask >> index & 1)


def mask_of(group: Iterable[int]) -> int:
    """The bit mask of some experts."""
    return sum(1 << index for index in group)


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
    _try_pairs(range(count), trials, most=trials.left // 2)
    found = _placed(count, trials)
    if count > LARGEST_EXACT:
        _try_apart(found, trials)
    at_least = _apart(count, trials)
    if count <= LARGEST_EXACT:
        found, at_least = _fewest_of_all(count, trials, found, at_least)
    found = joined(found, trials)
    groups = tuple(sorted(map(members, found)))
    return Grouping(groups=groups, at_least=min(at_least, len(groups)))


def _try_pairs(experts: Iterable[int], trials: TriedGroups, *, most: float = math.inf) -> None:
    """Try every pair, the riskiest first, where they are no more than ``most``: a pair that fails
    rules out more than any larger group."""
    pairs = [mask_of(pair) for pair in combinations(experts, 2)]
    if len(pairs) <= most:
        for pair in trials.riskiest(pairs):
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
    _try_pairs(picked, trials)


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


def _fewest_of_all(
    count: int, trials: TriedGroups, found: list[int], at_least: int
) -> tuple[list[int], int]:
    """No more groups than those ``found``, by the program over all subsets of ``count`` experts,
    and how many it takes at least."""
    masks = np.arange(1 << count)
    parts = [parts_of(subset) for subset in range(1, 1 << count)]
    risks = np.array([trials.risk(mask) for mask in masks.tolist()])
    worst = float(risks.max())
    # so small that all of them together are less than one group
    risks = risks / worst / (2 * count) if worst > 0 else risks
    while at_least < len(found):
        cost = 1.0 + risks
        cost[[mask for mask, passes in trials.known.items() if passes]] = 1.0
        for core in trials.cores:
            cost[(masks & core) == core] = np.inf
        groups = _cheapest(cost, parts)
        at_least = max(at_least, len(groups))
        if at_least >= len(found):
            break
        tried = map(trials.passes, trials.riskiest(groups))
        outcome = next((passes for passes in tried if not passes), True)
        if outcome:
            return groups, at_least
        if outcome is None:  # the trials ran out
            break
    return found, at_least


def _cheapest(cost: NDArray[np.float64], parts: Sequence[NDArray[np.int64]]) -> list[int]:
    """The groups of least cost in sum, by the ``parts`` of each subset with its first expert."""
    best = np.zeros(len(cost))
    chosen: NDArray[np.int64] = np.zeros(len(cost), dtype=np.int64)
    for subset, own in enumerate(parts, start=1):
        total = cost[own] + best[subset ^ own]
        pick = int(total.argmin())
        best[subset], chosen[subset] = total[pick], own[pick]
    groups, rest = [], len(cost) - 1
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
    _try_pairs(range(count), trials, most=trials.left // 2)
    passing = [mask for mask, ok in trials.known.items() if ok and not trials.blocked(mask)]
    passing += [mask_of(group) for group in groups if len(group) > 1]
    best = max(passing, key=lambda mask: (mask.bit_count(), -trials.risk(mask)), default=0)
    if best:
        # every other expert that goes into it, the least risky first
        others = [1 << k for k in range(count) if not best >> k & 1]
        for own in sorted(others, key=lambda own: trials.risk(best | own)):
            if trials.passes(best | own):
                best |= own
    found, at_least = _larger(best, count, trials)
    if not found:
        return None
    return LeftOut(kept=members(found), dropped=members(full ^ found), at_least=at_least)


def _larger(best: int, count: int, trials: TriedGroups) -> tuple[int, int]:
    """A larger group than ``best`` that passes, if there is one, and what is the least to drop."""
    full = (1 << count) - 1
    most = count - max(2, best.bit_count() + 1)
    for dropped in range(1, most + 1):
        if math.comb(count, dropped) > _MOST_SUBSETS:
            return best, dropped
        rests = (full ^ mask_of(out) for out in combinations(range(count), dropped))
        for rest in sorted((r for r in rests if not trials.blocked(r)), key=trials.risk):
            passes = trials.passes(rest)
            if passes is None:
                return best, dropped
            if passes:
                return rest, dropped
    return best, count - best.bit_count() if best else count - 1
