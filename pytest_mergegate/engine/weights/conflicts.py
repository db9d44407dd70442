"""What task vectors have in conflict: one pass over the parameters, all pairs at once."""

import math
import zlib
from collections import deque
from collections.abc import Generator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.machine import thread_count
from pytest_mergegate.engine.weights.delta_rows import Doubles
from pytest_mergegate.engine.weights.tensor_sums import Dense, TensorSums, factor_dots
from pytest_mergegate.metrics import pairwise
from pytest_mergegate.pool.changes import Factors
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.threads import workers

if TYPE_CHECKING:
    from pytest_mergegate.engine.weights.device_sums import DeviceSums  # imports torch


_NVIDIA = Path("/proc/driver/nvidia/version")
_LONG = 1e10
"""Pairs of elements that take a CPU longer than importing torch."""
_AHEAD = 4
"""Pieces of work for each thread beside the parameter that is waited for: enough to read the next
one meanwhile, and few enough that little is in memory."""
_NEAR = 0.3
"""Relative to ‖τ‖²: how far a sample of ordinary rows may be off."""


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


def tensor_conflicts(
    pool: Pool, dense: Dense, accelerator: "DeviceSums | None" = None
) -> Generator[TensorConflicts]:
    """The conflicts of every parameter that an expert changes, in the order of their names.

    Each stored number is read once for all pairs, or, as the gate file may ask, those of some rows
    only; never more than a few rows of τ are in memory, except for experts whose τ ``dense`` has to
    give. What adapters have in factors goes to the ``accelerator``. Raises PoolError for a τ that
    is not finite and for files that cannot be read, GateError for an accelerator that adds up
    wrongly.
    """
    parameters = sorted({name for expert in pool.experts for name in expert.changes})
    waiting: deque[_Pending] = deque()
    ahead = _AHEAD * thread_count()
    with workers() as threads:
        for parameter in parameters:
            tensor = TensorSums(parameter, pool, dense, accelerator)
            waiting.append(_Pending(tensor, pool, threads))
            # of dense task vectors, what waits is in memory
            while len(waiting) > _AHEAD or (
                len(waiting) > 1 and sum(len(w.pieces) for w in waiting) > ahead
            ):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def accelerator_of(device: str, pool: Pool) -> "DeviceSums | None":
    """The GPU that ``device`` names, under ``auto`` only where importing torch for it can pay.

    Raises GateError for a device that is not there.
    """
    if device == "cpu" or (device == "auto" and not (_NVIDIA.exists() and _is_long(pool))):
        return None
    from pytest_mergegate.engine.models.placement import pick_device
    from pytest_mergegate.engine.weights.device_sums import DeviceSums

    picked = pick_device(device)
    # single rows, as a sample has them, are no work for one
    is_one = picked.type != "cpu" and pool.spec.conflict.mode != "sampled"
    return DeviceSums(picked) if is_one else None


def _is_long(pool: Pool) -> bool:
    factors = [c for e in pool.experts for c in e.changes.values() if isinstance(c, Factors)]
    return sum(math.prod(change.shape) for change in factors) * len(pool.experts) > _LONG


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
