"""One parameter's sums over positions, for all pairs of the experts that change it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.weights.delta_rows import (
    BaseRuns,
    DeltaRows,
    Doubles,
    FactorRows,
    Floats,
    delta_rows,
)
from pytest_mergegate.engine.weights.kernels import add_pairs
from pytest_mergegate.pool.pool import Pool

if TYPE_CHECKING:
    from pytest_mergegate.engine.weights.device_sums import DeviceSums  # imports torch

Dense = Callable[[str, str], Floats]
"""τ of an expert and a parameter, where only a library can work it out."""
Piece = tuple[int, int]
"""First row, and the row behind the last."""

_TILE = 1 << 15
"""Elements of one task vector at a time, at most."""
_TILES = 1 << 19
"""Elements of all task vectors at a time, about."""
_CHUNK = 1 << 23
"""Elements of all task vectors in one piece of work, about; no matter how many threads there are,
so that sums do not depend on them."""
_TRIED = 8
"""Rows by which an accelerator's sums are held against the CPU's."""
MOST_RANKS = 4096
"""Of all factors together: their Gram has that many rows and columns."""
_BLOCK = 1 << 23
"""Numbers of the stacked factors at a time."""


class TensorSums:
    """What the experts of a pool make of one parameter; may be used from several threads."""

    def __init__(
        self, parameter: str, pool: Pool, dense: Dense, accelerator: "DeviceSums | None" = None
    ) -> None:
        """Raises PoolError for what cannot be read, and for experts of different shapes."""
        self.parameter = parameter
        changing = [expert for expert in pool.experts if parameter in expert.changes]
        self.names = tuple(expert.name for expert in changing)
        """The experts that change it."""
        self._base = pool.base.tensors
        self._sources: list[DeltaRows] = []
        for expert in changing:
            own = partial(dense, expert.name, parameter)
            source = delta_rows(expert.changes[parameter], expert.tensors, pool.base, own)
            self._sources.append(source)
        self.rows, self.columns = self._sources[0].shape
        for name, source in zip(self.names, self._sources, strict=True):
            if source.shape != self._sources[0].shape:
                raise PoolError(
                    f"its {parameter!r} is {source.shape}, that of {self.names[0]!r} "
                    f"{self._sources[0].shape}",
                    code="MG104",
                    expert=name,
                    fix="give experts of one base only",
                )
        found = [source.factors for source in self._sources if source.factors]
        few = sum(factor.rank for factor in found) <= MOST_RANKS
        self.factors = found if few and len(found) == len(self._sources) else []
        """Those of every expert; none where one has no factors or there are too many."""
        self._accelerator = accelerator if self.factors else None
        self.may_be_sampled = self.columns > 1 and all(
            source.factors is not None or source.is_stored for source in self._sources
        )
        """Whether single rows are cheaper than all, and preflight has looked at every number."""

    def over(self, pieces: Sequence[Piece]) -> Doubles:
        """The sums over every piece, [pieces, 4, experts, experts], as ``kernels.add_pairs``
        writes them; ⟨a, b⟩ only where no ``factors`` give it."""
        if self._accelerator is None:
            return self._over(pieces)
        few = (0, min(_TRIED, self.rows))
        self._accelerator.check(self.factors, few[1], self._over([few])[0])
        return np.stack([self._accelerator.over(self.factors, *piece) for piece in pieces])

    def _over(self, pieces: Sequence[Piece]) -> Doubles:
        count = len(self._sources)
        sums = np.zeros((len(pieces), 4, count, count))
        most = max(stop - start for start, stop in pieces)
        step = max(min(self._rows_at_a_time(), most), 1)
        tile = np.empty((count, step * self.columns))
        with ExitStack() as files:
            base = BaseRuns(self._base, self.parameter, files)
            readers = [source.reader(base, files) for source in self._sources]
            for (start, stop), found in zip(pieces, sums, strict=True):
                for first in range(start, stop, step):
                    rows = min(step, stop - first)
                    deltas = tile[:, : rows * self.columns]
                    for reader, delta in zip(readers, deltas, strict=True):
                        reader(first, first + rows, delta.reshape(rows, self.columns))
                    add_pairs(deltas, found, not self.factors)
        return sums

    def pieces(self) -> Iterator[Piece]:
        """All rows, as pieces worth a thread's while."""
        if self._accelerator is not None:  # it has its own way of taking turns
            yield 0, self.rows
            return
        step = self._rows_at_a_time()
        step *= max(_CHUNK // max(step * self.columns * len(self._sources), 1), 1)
        for start in range(0, max(self.rows, 1), step):
            yield start, min(start + step, self.rows)

    def _rows_at_a_time(self) -> int:
        return max(min(_TILE, _TILES // len(self._sources)) // max(self.columns, 1), 1)


def factor_dots(factors: Sequence[FactorRows]) -> Doubles:
    """⟨τ_i, τ_j⟩ = s_i s_j Σ (L_iᵀL_j) ∘ (R_iR_jᵀ), [experts, experts] (THEORY 2).

    All sums are in float64; only the upper triangle is filled.
    """
    starts = np.cumsum([0, *(factor.rank for factor in factors[:-1])])
    with np.errstate(invalid="ignore", over="ignore"):  # whoever asked looks for what is not finite
        products = _gram([factor.left for factor in factors])
        products *= _gram([factor.right.T for factor in factors])
        dots = np.add.reduceat(np.add.reduceat(products, starts, axis=0), starts, axis=1)
    scales = np.array([factor.scale for factor in factors])
    upper: Doubles = np.triu(dots * np.outer(scales, scales))
    np.fill_diagonal(upper, np.maximum(upper.diagonal(), 0.0))  # round-off of what cancels out
    return upper


def _gram(stack: Sequence[Floats]) -> Doubles:
    """SᵀS of matrices side by side."""
    width = sum(part.shape[1] for part in stack)
    gram = np.zeros((width, width))
    step = max(_BLOCK // width, 1)
    for start in range(0, len(stack[0]), step):
        some = [part[start : start + step] for part in stack]
        rows = np.concatenate(some, axis=1, dtype=np.float64)
        gram += rows.T @ rows  # numpy knows that this is symmetric, and computes half of it
    return gram
