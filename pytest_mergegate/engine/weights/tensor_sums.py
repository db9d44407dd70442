"""One parameter's sums over positions, for all pairs of the experts that change it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.errors import GateError, PoolError
from pytest_mergegate.engine.weights.delta_rows import BaseRuns, FactorRows, StoredRows, delta_rows
from pytest_mergegate.engine.weights.kernels import add_bfloat16_pairs, add_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_mergegate.engine.weights.delta_rows import DeltaRows, Doubles, Floats
    from pytest_mergegate.engine.weights.device_sums import DeviceSums
    from pytest_mergegate.pool.pool import Pool

    Dense = Callable[[str, str], Floats]
    """τ of an expert and a parameter, where only a library can work it out."""
    Piece = tuple[int, int]
    """First row, and the row behind the last."""


_TILE = 1 << 15
"""Elements of one task vector at a time, at most."""
_RUN = 1 << 19
"""The same of stored tensors that are compared as they are."""
_TILES = 1 << 19
"""Elements of all task vectors at a time, about."""
_CHUNK = 1 << 23
"""Elements of all task vectors in one piece of work, about; no matter how many threads there are,
so that sums do not depend on them."""


class TensorSums:
    """What the experts of a pool make of one parameter; may be used from several threads."""

    def __init__(
        self, parameter: str, pool: Pool, dense: Dense, accelerator: DeviceSums | None = None
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
        self.factors = self._factors()
        self._accelerator = accelerator if self.factors else None
        self._stored = self._stored_alike()
        self.may_be_sampled = self.columns > 1 and all(
            isinstance(source, (FactorRows, StoredRows)) for source in self._sources
        )
        """Whether single rows are cheaper than all, and preflight has looked at every number."""

    def over(self, pieces: Sequence[Piece]) -> Doubles:
        """The sums over every piece, [pieces, 4, experts, experts], as ``kernels.add_pairs``
        writes them; ⟨a, b⟩ only where no ``factors`` give it."""
        if self._accelerator is not None:
            return np.stack([self._accelerated(self._accelerator, piece) for piece in pieces])
        count = len(self._sources)
        sums = np.zeros((len(pieces), 4, count, count))
        (self._add_stored if self._stored else self._add_tiles)(pieces, sums)
        return sums

    def _accelerated(self, accelerator: DeviceSums, piece: Piece) -> Doubles:
        if not accelerator.trusted:
            few = [(0, min(8, self.rows))]
            expected = np.zeros((1, 4, len(self._sources), len(self._sources)))
            self._add_tiles(few, expected)
            found = accelerator.over(self.factors, *few[0])
            least = 1e-12 * float(np.nan_to_num(expected).max(initial=0.0))
            # what is not finite is the adapter's own doing, and told as such
            if not np.allclose(found, expected[0], rtol=1e-9, atol=least, equal_nan=True):
                raise GateError(
                    f"{accelerator.device} does not add up as the CPU does",
                    fix="use the device cpu",
                )
            accelerator.trusted = True
        return accelerator.over(self.factors, *piece)

    def pieces(self) -> Iterator[Piece]:
        """All rows, as pieces worth a thread's while."""
        if self._accelerator is not None:  # it has its own way of taking turns
            yield 0, self.rows
            return
        step = self._rows_at_a_time()
        step *= max(_CHUNK // max(step * self.columns * len(self._sources), 1), 1)
        for start in range(0, max(self.rows, 1), step):
            yield start, min(start + step, self.rows)

    def _factors(self) -> list[FactorRows]:
        """Those of every expert, or none where one has no factors or there are too many."""
        found = [source for source in self._sources if isinstance(source, FactorRows)]
        ranks = sum(factor.rank for factor in found)
        return found if len(found) == len(self._sources) and ranks <= MOST_RANKS else []

    def _stored_alike(self) -> list[StoredRows]:
        """The checkpoints' tensors, where all of them and the base's are in bfloat16."""
        found = [s for s in self._sources if isinstance(s, StoredRows) and s.dtype == "BF16"]
        alike = len(found) == len(self._sources) and self._base[self.parameter].dtype == "BF16"
        return found if alike else []

    def _add_tiles(self, pieces: Sequence[Piece], sums: Doubles) -> None:
        most = max(stop - start for start, stop in pieces)
        step = max(min(self._rows_at_a_time(), most), 1)
        tile = np.empty((len(self._sources), step * self.columns))
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

    def _add_stored(self, pieces: Sequence[Piece], sums: Doubles) -> None:
        """The quick way for numbers that need not be written out in float64."""
        most = max(stop - start for start, stop in pieces) * self.columns
        step = max(min(_RUN, _TILES // len(self._stored), most), 1)
        own = np.empty((len(self._stored), step), np.uint16)
        base = np.empty(step, np.uint16)
        with ExitStack() as files:
            readers = [files.enter_context(s.tensors.reader(s.key)) for s in self._stored]
            base_reader = files.enter_context(self._base.reader(self.parameter))
            for (start, stop), found in zip(pieces, sums, strict=True):
                end = stop * self.columns
                for first in range(start * self.columns, end, step):
                    size = min(step, end - first)
                    base_reader.read_into(base[:size], first)
                    for reader, run in zip(readers, own, strict=True):
                        reader.read_into(run[:size], first)
                    add_bfloat16_pairs(own[:, :size], base[:size], found)

    def _rows_at_a_time(self) -> int:
        rows = min(_TILE, _TILES // len(self._sources)) // max(self.columns, 1)
        # products are made of four rows at a time
        return max(rows // 4 * 4, 4)


MOST_RANKS = 4096
"""Of all factors together: their Gram has that many rows and columns."""
_BLOCK = 1 << 23
"""Numbers of the stacked factors at a time."""


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
