"""TIES as mergekit computes it, without sorting whole tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pytest_mergegate.compiled import compiled
from pytest_mergegate.pool.threads import thread_count, workers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from pytest_mergegate.merging.method import Method

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Bits = NDArray[np.uint32]
    Places = NDArray[np.int64]

_PLAIN = {"density", "normalize", "lambda", "int8_mask"}
"""Parameters that this way knows; mergekit itself is asked for any other."""
_SPAN = 512
"""Numbers of every task vector that stay in the fastest cache at a time."""
_KEPT = 1 << 17
"""Numbers of all task vectors that stay in a cache at a time."""
_BUCKETS = 1 << 15
"""Of magnitudes, by the upper half of their bits: as integers these are in the same order."""


def is_ties(method: Method) -> bool:
    """Whether ``ties`` below gives what mergekit gives for ``method``."""
    unknown = {n for n, value in method.parameters.items() if n not in _PLAIN and value}
    return method.name == "ties" and not unknown


def ties(method: Method, base: Tensor, experts: Mapping[str, Tensor]) -> Tensor:
    """The merged parameter, float32, in ``base``'s shape.

    ``experts`` holds the experts' own parameters by name. Of every task vector the ``density``
    share that is largest in magnitude is kept, a sign elected by the weighted sum, and what
    has that sign averaged (Yadav et al. 2023). Task vectors are never written out.
    """
    size = base.numel()
    origin = base.reshape(-1).numpy()
    own = tuple(expert.reshape(-1).numpy() for expert in experts.values())
    kept = _kept(size, float(method.parameters.get("density", 1.0)))
    weights = np.array([method.weights[name] for name in experts], np.float32).astype(np.float64)
    normalize = bool(method.parameters.get("normalize", True))
    scale = float(method.parameters.get("lambda", 1.0))
    merged = np.empty(size, np.float32)
    with workers() as threads:
        cuts = list(threads.map(lambda values: _cut(values, origin, kept), own))

        def elect(first: int, end: int) -> None:
            span = max(_SPAN, _KEPT // max(len(own), 1))
            kept = np.empty((len(own), span), np.float32)
            total = np.empty(span)
            for start in range(first, end, span):
                part = slice(start, min(start + span, end))
                total[:] = 0.0
                for values, cut, weight, row in zip(own, cuts, weights, kept, strict=True):
                    least, last = cut
                    _trim(values[part], origin[part], least, last - start, weight, row, total)
                _average(origin[part], kept, weights, total, normalize, scale, merged[part])

        step = -(-size // thread_count()) or 1
        starts = range(0, size, step)
        list(threads.map(elect, starts, [min(start + step, size) for start in starts]))
    return torch.from_numpy(merged).reshape(base.shape)


def _kept(size: int, density: float) -> int:
    """How many numbers mergekit keeps: at least one, but none at density 0."""
    if density >= 1:
        return size
    return max(1, int(density * size)) if density > 0 and size else 0


def _cut(own: Floats, base: Floats, kept: int) -> tuple[np.float32, int]:
    """The smallest magnitude that is kept, and the place from which on no more of it is."""
    if kept == 0:
        return np.float32(np.inf), 0
    if kept == own.size:
        return np.float32(0), own.size
    counts = np.zeros(_BUCKETS, np.int64)
    _count(own, base, counts)
    above = np.cumsum(counts[::-1])[::-1]  # in this bucket and in all of larger magnitude
    bucket = int(np.flatnonzero(above >= kept)[-1])
    bits, places = np.empty(counts[bucket], np.uint32), np.empty(counts[bucket], np.int64)
    _collect(own, base, bucket, bits, places)
    wanted = kept - int(above[bucket] - counts[bucket])
    least = np.partition(bits, len(bits) - wanted)[len(bits) - wanted]
    equal = places[bits == least]
    left = wanted - int(np.count_nonzero(bits > least))
    end = int(equal[left]) if left < len(equal) and least else own.size
    return least.view(np.float32), end


@compiled
def _count(own: Floats, base: Floats, counts: Places) -> None:
    """Add to ``counts`` how many magnitudes of ``own - base`` are in every bucket."""
    deltas = np.empty(_SPAN, np.float32)
    bits = deltas.view(np.uint32)
    for start in range(0, own.size, _SPAN):
        span = min(_SPAN, own.size - start)
        for k in range(span):
            deltas[k] = own[start + k] - base[start + k]
        for k in range(span):
            counts[(bits[k] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1


@compiled
def _collect(own: Floats, base: Floats, bucket: int, found: Bits, places: Places) -> None:
    """Write down the magnitudes in ``bucket``, in bits, and where they stand."""
    deltas = np.empty(_SPAN, np.float32)
    bits = deltas.view(np.uint32)
    count = 0
    for start in range(0, own.size, _SPAN):
        span = min(_SPAN, own.size - start)
        for k in range(span):
            deltas[k] = own[start + k] - base[start + k]
        for k in range(span):
            magnitude = bits[k] & np.uint32(0x7FFFFFFF)
            if magnitude >> np.uint32(16) == np.uint32(bucket):
                found[count] = magnitude
                places[count] = start + k
                count += 1


@compiled
def _trim(
    own: Floats,
    base: Floats,
    least: np.float32,
    end: int,
    weight: float,
    kept: Floats,
    total: Doubles,
) -> None:
    """Write what is kept of ``own - base`` to ``kept``, and add it, weighted, to ``total``.

    Of magnitudes that are just ``least`` those before ``end`` are kept.
    """
    for k in range(own.size):
        delta = own[k] - base[k]
        kept[k] = np.float32(0) if abs(delta) < least else delta  # NaN is kept, to be seen
    for k in range(max(end, 0), own.size):
        if abs(kept[k]) == least:
            kept[k] = np.float32(0)
    for k in range(own.size):
        total[k] += weight * kept[k]


@compiled
def _average(
    base: Floats,
    kept: Floats,
    weights: Doubles,
    total: Doubles,
    normalize: bool,
    scale: float,
    out: Floats,
) -> None:
    """base + scale · the mean (or sum) of what has the sign of ``total``."""
    mixed, divisor = np.empty(_SPAN), np.empty(_SPAN)
    for start in range(0, base.size, _SPAN):
        span = min(_SPAN, base.size - start)
        mixed[:] = 0.0
        divisor[:] = 0.0
        for j in range(len(weights)):
            weight = weights[j]
            for k in range(span):
                own, sign = weight * kept[j, start + k], total[start + k]
                agrees = own > 0 if sign >= 0 else own < 0
                mixed[k] += own if agrees else 0.0
                divisor[k] += weight if agrees else 0.0
        for k in range(span):
            if not normalize or divisor[k] == 0:
                divisor[k] = 1.0
            out[start + k] = base[start + k] + scale * mixed[k] / divisor[k]
            if total[start + k] != total[start + k]:
                out[start + k] = np.nan
