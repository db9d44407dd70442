"""The fewest groups that are all forecast to pass."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from pytest_mergegate.planning.exact import Subsets
from pytest_mergegate.planning.tried_groups import Group, mask_of, members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.planning.tried_groups import TriedGroups

LARGEST_EXACT = 12
"""Every subset of so many experts is looked at."""
_PLACES = 4
"""Groups into which an expert of a larger pool is tried."""


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """A pool as a few groups, each forecast to pass when merged."""

    groups: tuple[Group, ...]
    at_least: int
    """Fewer groups than these do not do, as far as a group that holds a failing one fails."""
    tried: int
    """Groups that were tried on the way."""

    @property
    def exact(self) -> bool:
        """Whether no fewer groups do."""
        return self.at_least >= len(self.groups)


def fewest_groups(count: int, trials: TriedGroups) -> Grouping:
    """Put ``count`` experts into few groups that pass; a single expert always does.

    Up to 12 experts the groups are the fewest, unless the trials run out; above they are found
    one expert at a time. ``at_least`` says how far off they may be.
    """
    full = (1 << count) - 1
    if trials.passes(full):
        return Grouping(groups=(members(full),), at_least=1, tried=len(trials.known))
    try_pairs(count, trials)
    found = _placed(count, trials)
    if count > LARGEST_EXACT:
        _try_apart(found, trials)
    at_least = _apart(count, trials)
    if count <= LARGEST_EXACT:
        found, at_least = Subsets(count, trials).fewest(found, at_least)
    found = joined(found, trials)
    return Grouping(
        groups=tuple(sorted(map(members, found))),
        at_least=min(at_least, len(found)),
        tried=len(trials.known),
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
