"""What task vectors have in conflict: one pass over the parameters, all pairs at once."""

from __future__ import annotations

import os
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.engine.delta_rows import BaseRuns, FactorRows, StoredRows, delta_rows
from pytest_mergegate.engine.grams import MOST_RANKS, factor_dots
from pytest_mergegate.engine.kernels import DOT, add_bfloat16_pairs, add_pairs
from pytest_mergegate.errors import PoolError
from pytest_mergegate.metrics import pairwise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from pytest_mergegate.engine.delta_rows import DeltaRows, Doubles, Floats
    from pytest_mergegate.pool.pool import Pool

    Dense = Callable[[str, str], Floats]
    """τ of an expert and a parameter, where only a library can work it out."""

_TILE = 1 << 15
"""Elements of one task vector at a time, at most."""
_RUN = 1 << 19
"""The same of stored tensors that are compared as they are."""
_TILES = 1 << 19
"""Elements of all task vectors at a time, about."""
_CHUNK = 1 << 23
"""Elements of all task vectors in one piece of work, about; no matter how many threads there are,
so that sums do not depend on them."""


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


def tensor_conflicts(pool: Pool, dense: Dense) -> Iterator[TensorConflicts]:
    """The conflicts of every parameter that an expert changes, in the order of their names.

    Each stored number is read once for all pairs, or, as the gate file may ask, those of some rows
    only; never more than a few rows of τ are in memory, but for experts whose τ ``dense`` has to
    give. Raises PoolError for a τ that is not finite and for files that cannot be read.
    """
    parameters = sorted({name for expert in pool.experts for name in expert.changes})
    waiting: deque[_Pending] = deque()
    with ThreadPoolExecutor(_threads()) as threads:
        try:
            for parameter in parameters:
                tensor = _Tensor(parameter, pool, dense)
                waiting.append(_Pending(tensor, pool, threads))
                while sum(len(pending.pieces) for pending in waiting) > 4 * _threads():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:  # Ctrl-C, too: only what has been begun is finished
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _threads() -> int:
    """As many as cores, unless OMP_NUM_THREADS says otherwise, as it does for torch."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class _Tensor:
    """One parameter and what the experts make of it."""

    def __init__(self, parameter: str, pool: Pool, dense: Dense) -> None:
        self.parameter = parameter
        self.names = pool.names
        self.base = pool.base.tensors
        self.changed = np.array([parameter in expert.changes for expert in pool.experts])
        self.sources: list[DeltaRows] = []
        changing = [expert for expert in pool.experts if parameter in expert.changes]
        for expert in changing:
            own = partial(dense, expert.name, parameter)
            source = delta_rows(expert.changes[parameter], expert.tensors, pool.base, own)
            self.sources.append(source)
        self.rows, self.columns = self.sources[0].shape
        for expert, source in zip(changing, self.sources, strict=True):
            if source.shape != self.sources[0].shape:
                raise PoolError(
                    f"its {parameter!r} is {source.shape}, that of {changing[0].name!r} "
                    f"{self.sources[0].shape}",
                    code="MG104",
                    expert=expert.name,
                    fix="give experts of one base only",
                )

    @cached_property
    def factors(self) -> list[FactorRows]:
        """Those of every expert, or none where one has no factors or there are too many."""
        found = [source for source in self.sources if isinstance(source, FactorRows)]
        ranks = sum(factor.rank for factor in found)
        return found if len(found) == len(self.sources) and ranks <= MOST_RANKS else []

    @cached_property
    def stored(self) -> list[StoredRows]:
        """The checkpoints' tensors, where they and the base's are all in bfloat16."""
        found = [s for s in self.sources if isinstance(s, StoredRows) and s.is_bfloat16]
        own = self.base[self.parameter].dtype == "BF16"
        return found if own and len(found) == len(self.sources) else []

    def sums(self, start: int, stop: int) -> Doubles:
        """[4, experts, experts] over some rows, as ``kernels.add_pairs`` writes them."""
        count = len(self.sources)
        sums = np.zeros((4, count, count))
        if self.stored:
            self._add_stored(start * self.columns, stop * self.columns, sums)
            return sums
        step = self._rows_at_a_time()
        tile = np.empty((count, step * self.columns))
        with ExitStack() as files:
            base = BaseRuns(files.enter_context(self.base.reader(self.parameter)))
            readers = [files.enter_context(source.reading(base)) for source in self.sources]
            for first in range(start, stop, step):
                last = min(first + step, stop)
                deltas = tile[:, : (last - first) * self.columns]
                for reader, delta in zip(readers, deltas, strict=True):
                    reader(first, last, delta.reshape(last - first, self.columns))
                add_pairs(deltas, sums, not self.factors)
        return sums

    def _add_stored(self, start: int, stop: int, sums: Doubles) -> None:
        """The quick way for numbers that need not be written out in float64."""
        count = len(self.sources)
        step = max(min(_RUN, _TILES // count), 1)
        own, base = np.empty((count, step), np.uint16), np.empty(step, np.uint16)
        with ExitStack() as files:
            readers = [files.enter_context(s.tensors.reader(s.key)) for s in self.stored]
            base_reader = files.enter_context(self.base.reader(self.parameter))
            for first in range(start, stop, step):
                size = min(step, stop - first)
                base_reader.read_into(base[:size], first)
                for reader, run in zip(readers, own, strict=True):
                    reader.read_into(run[:size], first)
                add_bfloat16_pairs(own[:, :size], base[:size], sums)

    def samples(self, rows: NDArray[np.int64]) -> Doubles:
        """The same of single rows: [*rows.shape, 4, experts, experts]."""
        return np.stack([[self.sums(row, row + 1) for row in pair] for pair in rows.tolist()])

    def pieces(self) -> Iterator[tuple[int, int]]:
        """First and last row of what is computed at one go."""
        step = self._rows_at_a_time()
        step *= max(_CHUNK // (step * self.columns * len(self.sources)), 1)
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def _rows_at_a_time(self) -> int:
        rows = min(_TILE, _TILES // len(self.sources)) // max(self.columns, 1)
        # products are made of four rows at a time
        return max(rows // 4 * 4, 4)


class _Pending:
    """One parameter's sums while they are computed."""

    def __init__(self, tensor: _Tensor, pool: Pool, threads: Executor) -> None:
        self._tensor = tensor
        self._sizes: NDArray[np.int64] | None = None
        self._dots = threads.submit(factor_dots, tensor.factors) if tensor.factors else None
        spec = pool.spec.conflict
        # a vector's numbers are cheap to read, all of them
        if spec.mode == "sampled" and tensor.rows > spec.rows and tensor.columns > 1:
            seed = (spec.seed, zlib.crc32(tensor.parameter.encode()))
            rows, self._sizes = _draw(tensor.rows, spec.rows // 2, seed)
            self.pieces = [threads.submit(tensor.samples, rows)]
        else:
            self.pieces = [threads.submit(tensor.sums, *piece) for piece in tensor.pieces()]

    def result(self) -> TensorConflicts:
        """Wait for it. Raises PoolError for a τ that is not finite."""
        tensor = self._tensor
        covariances = None
        if self._sizes is None:
            found = [piece.result() for piece in self.pieces]
            sums = sum(found[1:], start=found[0])
        else:
            samples = self.pieces[0].result()
            sums, covariances = self._estimate(samples, self._sizes)
        if self._dots is not None:
            sums[DOT] = self._dots.result()
        return TensorConflicts(
            parameter=tensor.parameter,
            size=tensor.rows * tensor.columns,
            changed=tensor.changed,
            triangles=self._spread(sums),
            covariances=covariances,
        )

    def _estimate(self, samples: Doubles, sizes: NDArray[np.int64]) -> tuple[Doubles, Doubles]:
        """From [strata, 2, 4, changing, changing]."""
        sums, _ = pairwise.stratified_sum(samples, sizes)
        tensor = self._tensor
        spread = np.moveaxis(self._spread(samples), 2, 0)
        changed = np.broadcast_to(tensor.changed, (*spread.shape[1:3], len(tensor.changed)))
        rows = np.full(spread.shape[1:3], tensor.columns)
        pairs = pairwise.PairwiseConflicts.of_tensors(spread, changed, rows)
        return sums, pairwise.stratified_sum(np.moveaxis(pairs.sums, 0, 2), sizes)[1]

    def _spread(self, sums: Doubles) -> Doubles:
        """[..., changing, changing] to [..., experts, experts]. Raises PoolError where a sum is
        not finite."""
        changed, names = self._tensor.changed, self._tensor.names
        where = np.flatnonzero(changed)
        if not np.isfinite(sums).all():
            sizes = np.diagonal(sums, axis1=-2, axis2=-1).reshape(-1, len(where)).sum(axis=0)
            odd = where[int(np.argmax(~np.isfinite(sizes)))]
            raise PoolError(
                f"the task vector of {self._tensor.parameter!r} is not finite",
                code="MG105",
                expert=names[int(odd)],
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
