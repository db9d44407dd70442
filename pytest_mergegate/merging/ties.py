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

_PLAIN = {"density", "normalize", "lambda", "int8_mask"}
"""Parameters that this way knows; mergekit itself is asked for any other."""
_SPAN = 512
"""Numbers of every task vector that stay in the fastest cache while a sign is elected."""


def is_ties(method: Method) -> bool:
    """Whether ``ties`` below gives what mergekit gives for ``method``."""
    unknown = {n for n, value in method.parameters.items() if n not in _PLAIN and value}
    return method.name == "ties" and not unknown


def ties(method: Method, base: Tensor, experts: Mapping[str, Tensor]) -> Tensor:
    """The merged parameter, float32, in ``base``'s shape.

    ``experts`` holds the experts' own parameters by name. Of every task vector the ``density``
    share that is largest in magnitude is kept, a sign elected by the weighted sum, and what
    has that sign averaged (Yadav et al. 2023).
    """
    size = base.numel()
    origin = base.reshape(-1).numpy()
    deltas = np.empty((len(experts), size), np.float32)
    for row, own in zip(deltas, experts.values(), strict=True):
        np.subtract(own.reshape(-1).numpy(), origin, out=row)
    kept = _kept(size, float(method.parameters.get("density", 1.0)))
    weights = np.array([method.weights[name] for name in experts], np.float32)
    normalize = bool(method.parameters.get("normalize", True))
    scale = float(method.parameters.get("lambda", 1.0))
    merged = np.empty(size, np.float32)
    with workers() as threads:
        least = np.array(list(threads.map(lambda row: _trim(row, kept), deltas)), np.float32)

        def elect(part: slice) -> None:
            own = origin[part], deltas[:, part], least, weights, normalize, scale, merged[part]
            _elect(*own)

        step = -(-size // thread_count()) or 1
        list(threads.map(elect, [slice(k, k + step) for k in range(0, size, step)]))
    return torch.from_numpy(merged).reshape(base.shape)


def _kept(size: int, density: float) -> int:
    """How many numbers mergekit keeps: at least one, but none at density 0."""
    if density >= 1:
        return size
    return max(1, int(density * size)) if density > 0 and size else 0


def _trim(delta: Floats, kept: int) -> float:
    """The smallest magnitude that is kept; what of just that one is too many is set to zero."""
    if kept == 0:
        return np.inf
    if kept == delta.size:
        return 0.0
    magnitudes = np.abs(delta)
    ordered = np.partition(magnitudes, delta.size - kept)
    least = ordered[delta.size - kept]
    # before the pivot stands nothing larger
    surplus = int(np.count_nonzero(ordered[: delta.size - kept] == least))
    if surplus and least:
        delta[np.flatnonzero(magnitudes == least)[-surplus:]] = 0
    return float(least)


@compiled
def _elect(
    base: Floats,
    deltas: Floats,
    least: Floats,
    weights: Floats,
    normalize: bool,
    scale: float,
    out: Floats,
) -> None:
    """base + scale · the mean (or sum) of what is kept and has the elected sign."""
    experts, size = deltas.shape
    kept = np.empty((experts, _SPAN), np.float64)
    total, mixed, divisor = np.empty(_SPAN), np.empty(_SPAN), np.empty(_SPAN)
    for start in range(0, size, _SPAN):
        span = min(_SPAN, size - start)
        total[:] = 0.0
        mixed[:] = 0.0
        divisor[:] = 0.0
        for j in range(experts):
            own, delta = kept[j], deltas[j, start : start + span]
            for k in range(span):
                own[k] = weights[j] * delta[k] if abs(delta[k]) >= least[j] else 0.0
                total[k] += own[k]
        for j in range(experts):
            own = kept[j]
            for k in range(span):
                agrees = own[k] > 0 if total[k] >= 0 else own[k] < 0
                mixed[k] += own[k] if agrees else 0.0
                divisor[k] += weights[j] if agrees else 0.0
        for k in range(span):
            if not normalize or divisor[k] == 0:
                divisor[k] = 1.0
            out[start + k] = base[start + k] + scale * mixed[k] / divisor[k]
