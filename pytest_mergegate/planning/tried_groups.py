"""Groups of experts that were tried, at a price, and what follows from them.

Whether a group passes is forecast, and a forecast need not be monotone. A group that holds one
that fails is taken to fail too, and not tried: it almost always does, since more experts neither
raise anyone's weight nor pull any less. What the search ends with is put to the test once more
without that assumption (``search.joined``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

Group = tuple[int, ...]
"""Experts by their place in the pool, ascending."""


class Forecasts(Protocol):
    """What a search asks of a pool."""

    def risk(self, group: Group) -> float:
        """How likely a group is to fail, in any unit; costs next to nothing."""

    def passes(self, group: Group) -> bool:
        """Whether a group of two or more is forecast to keep the budget; costs model runs."""


class TriedGroups:
    """The groups tried so far, and how many more may be."""

    def __init__(self, forecasts: Forecasts, most: int) -> None:
        self._forecasts = forecasts
        self._most = most
        self._risks: dict[int, float] = {}
        self.known: dict[int, bool] = {}
        """Whether a group passes, by bit mask."""
        self.cores: list[int] = []
        """The failing groups that hold no other failing one."""

    @property
    def left(self) -> int:
        """How many groups may still be tried."""
        return self._most - len(self.known)

    def risk(self, mask: int) -> float:
        """The risk of a group; none of a single expert."""
        if mask not in self._risks:
            group = members(mask)
            self._risks[mask] = self._forecasts.risk(group) if len(group) > 1 else 0.0
        return self._risks[mask]

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
            if self._forecasts.passes(members(mask)):
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
