"""How likely a group is to fail, from the shifts of the hidden states alone (end of THEORY 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_mergegate.planning.tried_groups import Group

FloatArray = NDArray[np.float64]


class OwnInputRisk:
    """The worst of δ_i² / G⁽ⁱ⁾_ii over a group's experts, by the gate's best method."""

    def __init__(
        self, grams: Sequence[FloatArray], scales: Sequence[Callable[[Group], FloatArray]]
    ) -> None:
        """``grams`` are G⁽ⁱ⁾ of every expert [N, N]; each of ``scales`` gives λ by group."""
        self._grams = np.stack(grams)
        self._scales = scales

    def of(self, group: Group) -> float:
        """0 for a group that keeps every expert, 1 for one that is as far from it as the base."""
        return min(float(self.by_expert(group, scales(group)).max()) for scales in self._scales)

    def by_expert(self, group: Group, scales: FloatArray) -> FloatArray:
        """δ_i² / G⁽ⁱ⁾_ii of every expert of the group under λ; 0 for one that moves nothing."""
        grams = self._grams[np.ix_(group, group, group)]
        off = scales - np.eye(len(group))
        moved = np.einsum("ij,ijk,ik->i", off, grams, off)
        own = np.einsum("iii->i", grams)
        relative: FloatArray = np.divide(moved, own, out=np.zeros(len(group)), where=own > 0)
        return relative
