"""What task vectors have in conflict: one pass over the parameters, all pairs at once."""

import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

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
from pytest_mergegate.metrics import pairwise
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.threads import thread_count, workers

Dense = Callable[[str, str], Floats]
"""τ of an expert and a parameter, where only a library can work it out."""
Piece = tuple[int, int]
"""First row, and the row behind the last."""

_AHEAD = 4
"""Pieces of work for each thread beside the parameter that is waited for: enough to read the next
one meanwhile, and few enough that little is in memory."""
_NEAR = 0.3
"""Relative to ‖τ‖²: how far a sample of ordinary rows may be off."""
_TILE = 1 << 15
"""Elements of one task vector at a time, at most."""
_TILES = 1 << 19
"""Elements of all task vectors at a time, about."""
_CHUNK = 1 << 23
"""Elements of all task vectors in one piece of work, about; no matter how many threads there are,
so that sums do not depend on them."""
MOST_RANKS = 4096
"""Of all factors together: their Gram has that many rows and columns."""
_BLOCK = 1 << 23
"""Numbers of the stacked factors at a time."""


@dataclass(frozen=True, kw_only=True)
class TensorConflicts:
    """One parameter's sums, of every pair of experts in the pool."""

    parameter: str
    size: int
    """Number of elements."""
    changed: NDArray[np.bool_]
    """[experts], which of them may change it."""
    triangles: Doubles
    """[4, experts, experts], as ``kernels.add_pairs`` writes them."""
    covariances: Doubles | None
    """[8, 8, experts, experts], of sums that were estimated from a sample of the rows."""


def tensor_conflicts(pool: Pool, dense: Dense) -> Generator[TensorConflicts]:
    """The conflicts of every parameter that an expert changes, in the order of their names.

    Each stored number is read once for all pairs, or, as the gate file may ask, those of some rows
    only; never more than a few rows of τ are in memory, but for experts whose τ ``dense`` has to
    give. Raises PoolError for a τ that is not finite and for files that cannot be read.
    """
    parameters = sorted({name for expert in pool.experts for name in expert.changes})
    waiting: deque[_Pending] = deque()
    ahead = _AHEAD * thread_count()
    with workers() as threads:
        for parameter in parameters:
            tensor = TensorSums(parameter, pool, dense)
            waiting.append(_Pending(tensor, pool, threads))
            # of dense task vectors, what waits is in memory
            while len(waiting) > _AHEAD or (
                len(waiting) > 1 and sum(len(w.pieces) for w in waiting) > ahead
            ):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class TensorSums:
    """What the experts of a pool make of one parameter; may be used from several threads."""

    def __init__(self, parameter: str, pool: Pool, dense: Dense) -> None:
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
        self.may_be_sampled = self.columns > 1 and all(
            source.factors is not None or source.is_stored for source in self._sources
        )
        """Whether single rows are cheaper than all, and preflight has looked at every number."""

    def over(self, pieces: Sequence[Piece]) -> Doubles:
        """The sums over every piece, [pieces, 4, experts, experts], as ``kernels.add_pairs``
        writes them; ⟨a, b⟩ only where no ``factors`` give it."""
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
        step = self._rows_at_a_time()
        step *= max(_CHUNK // max(step * self.columns * len(self._sources), 1), 1)
        for start in range(0, max(self.rows, 1), step):
            yield start, min(start + step, self.rows)

    def _rows_at_a_time(self) -> int:
        return max(min(_TILE, _TILES // len(self._sources)) // max(self.columns, 1), 1)


class _Pending:
    """One parameter's sums while they are computed."""

    def __init__(self, tensor: TensorSums, pool: Pool, threads: Executor) -> None:
        self._tensor, self._pool, self._threads = tensor, pool, threads
        self._changed = np.array([tensor.parameter in e.changes for e in pool.experts])
        self._sizes: NDArray[np.int64] | None = None
        spec = pool.spec.conflict
        if spec.mode == "sampled" and tensor.rows > spec.rows and tensor.may_be_sampled:
            seed = (spec.seed, zlib.crc32(tensor.parameter.encode()))
            rows, self._sizes = _draw(tensor.rows, spec.rows // 2, seed)
            drawn = [(row, row + 1) for row in rows.ravel().tolist()]
            self.pieces = [threads.submit(tensor.over, drawn)]
        else:
            self.pieces = [threads.submit(tensor.over, [piece]) for piece in tensor.pieces()]

    def result(self) -> TensorConflicts:
        """Wait for it. Raises PoolError for a τ that is not finite."""
        tensor, covariances = self._tensor, None
        # here, not in a thread: the library has its own, and Ctrl-C comes between two products
        dots = factor_dots(tensor.factors) if tensor.factors else None
        found = np.concatenate([piece.result() for piece in self.pieces])
        if self._sizes is not None and self._misses(found, self._sizes):
            self._sizes = None
            pieces = [self._threads.submit(tensor.over, [piece]) for piece in tensor.pieces()]
            found = np.concatenate([piece.result() for piece in pieces])
        if self._sizes is None:
            sums = found.sum(axis=0)
        else:
            if dots is not None:
                found[:, pairwise.DOT] = 0.0  # they are exact
            samples = found.reshape(-1, 2, *found.shape[1:])
            sums, covariances = self._estimate(samples, self._sizes)
        if dots is not None:
            sums[pairwise.DOT] = dots
        return TensorConflicts(
            parameter=tensor.parameter,
            size=tensor.rows * tensor.columns,
            changed=self._changed,
            triangles=self._spread(sums),
            covariances=covariances,
        )

    def _misses(self, rows: Doubles, sizes: NDArray[np.int64]) -> bool:
        """Whether a sample tells too little: of an expert that changed only some of the rows, or
        whose norm, which preflight knows, is another than the sampled rows suggest."""
        sampled = np.diagonal(rows[:, pairwise.DOT], axis1=-2, axis2=-1)
        estimates = (sampled.reshape(len(sizes), 2, -1).sum(axis=1).T * sizes / 2).sum(axis=1)
        for k, name in enumerate(self._tensor.names):
            norm = self._pool.statistics[name].norms.get(self._tensor.parameter)
            if norm is None or abs(estimates[k] - norm**2) > _NEAR * norm**2:
                return True
            if norm > 0 and not sampled[:, k].all():
                return True
        return False

    def _estimate(self, samples: Doubles, sizes: NDArray[np.int64]) -> tuple[Doubles, Doubles]:
        """Sums and their covariances from [strata, 2, 4, changing, changing]."""
        sums, _ = pairwise.stratified_sum(samples, sizes)
        spread = np.moveaxis(self._spread(samples), 2, 0)
        changed = np.broadcast_to(self._changed, (*spread.shape[1:3], len(self._changed)))
        elements = np.full(spread.shape[1:3], self._tensor.columns)
        pairs = pairwise.PairwiseConflicts.of_tensors(spread, changed, elements)
        return sums, pairwise.stratified_sum(np.moveaxis(pairs.sums, 0, 2), sizes)[1]

    def _spread(self, sums: Doubles) -> Doubles:
        """[..., changing, changing] to [..., experts, experts]. Raises PoolError where a sum is
        not finite."""
        changed, where = self._changed, np.flatnonzero(self._changed)
        if not np.isfinite(sums).all():
            sizes = np.diagonal(sums, axis1=-2, axis2=-1).reshape(-1, len(where)).sum(axis=0)
            odd = int(np.argmax(~np.isfinite(sizes)))
            raise PoolError(
                f"the task vector of {self._tensor.parameter!r} is not finite",
                code="MG105",
                expert=self._tensor.names[odd],
                fix="the training diverged; use an earlier checkpoint",
            )
        if changed.all():
            return sums
        found = np.zeros((*sums.shape[:-2], len(changed), len(changed)))
        found[..., where[:, np.newaxis], where] = sums
        return found


def _draw(
    rows: int, strata: int, seed: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two rows of each of as many equal strata, [strata, 2], and the strata's sizes."""
    edges = np.arange(strata + 1, dtype=np.int64) * rows // strata
    sizes = np.diff(edges)
    drawn = np.random.default_rng(seed).random((2, strata))
    first = (drawn[0] * sizes).astype(np.int64)
    second = (first + 1 + (drawn[1] * (sizes - 1)).astype(np.int64)) % sizes
    return np.stack([edges[:-1] + first, edges[:-1] + second], axis=1), sizes


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
