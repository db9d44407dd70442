"""Groups of experts that were tried, at a price, and what follows from them.

Whether a group passes is forecast, and a forecast need not be monotone. A group that holds one
that fails is taken to fail too, and not tried: it almost always does, since more experts neither
raise anyone's weight nor pull any less. What the search ends with is put to the test once more
without that assumption (``search.joined``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Group = tuple[int, ...]
"""Experts by their place in the pool, ascending."""


class Forecasts(Protocol):
    """What a search asks of a pool; its experts are named, or else numbered."""

    def risk(self, group: Any) -> float:
        """How likely a group is to fail, in any unit; costs next to nothing."""

    def passes(self, group: Any) -> bool:
        """Whether a group of two or more is forecast to keep the budget; costs model runs."""


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
