"""TIES as mergekit computes it, without sorting whole tensors."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pytest_mergegate.common.compiled import compiled
from pytest_mergegate.engine.weights.mixing import FactoredTensor
from pytest_mergegate.merging.method import Method

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_TILE = 1 << 16
"""Numbers of a tensor that stay in a core's cache at a time, with those of others."""
_SPAN = 512
"""Numbers of every task vector that stay in the fastest cache at a time."""


def put_ties(
    method: Method, base: FactoredTensor, experts: Mapping[str, FactoredTensor], place: Tensor
) -> None:
    """Write the merge of one parameter to ``place``.

    Of every task vector the ``density`` share that is largest in magnitude is kept, a sign
    elected by the weighted sum, and what has that sign averaged (Yadav et al. 2023). No expert is
    ever written out: some rows are made at a time, once to find what is kept and once to merge it.
    """
    tiles, density = _Tiles(base), float(method.parameters.get("density", 1.0))
    cuts = [_cut(expert, density, tiles) for expert in experts.values()]
    weights = np.array([method.weights[name] for name in experts], np.float32).astype(np.float64)
    normalize = bool(method.parameters.get("normalize", True))
    scale = float(method.parameters.get("lambda", 1.0))
    total = np.empty(tiles.size)
    trimmed = np.empty((len(experts), tiles.size), np.float32)
    merged = torch.empty(tiles.size)
    target = place.view(-1)
    for start, origin in tiles:
        total[:] = 0.0
        for expert, (least, end), weight, row in zip(
            experts.values(), cuts, weights, trimmed, strict=True
        ):
            _trim(tiles.of(expert, start), origin, least, end - start, weight, row, total)
        out = merged[: origin.size]
        _average(origin, trimmed, weights, total, normalize, scale, out.numpy())
        target[start : start + origin.size].copy_(out)


class _Tiles:
    """Rows of a base, so many as stay in a core's cache at a time.

    Always the same ones: a product's last bits may hang on how many rows it has.
    """

    def __init__(self, base: FactoredTensor) -> None:
        self.base = base
        rows, self._columns = base.own.shape
        height = max(1, min(rows, _TILE // max(self._columns, 1)))
        self._starts = range(0, rows, height)
        self._one, self._other = (torch.empty(height, self._columns) for _ in range(2))
        self.size = height * self._columns
        """Of a tile."""

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        """The place of its first number, and the tile, until the next one."""
        for first in self._starts:
            yield first * self._columns, self._read(self.base, first, self._one)

    def of(self, tensor: FactoredTensor, start: int) -> Floats:
        """The same tile of another tensor, until the next call."""
        return self._read(tensor, start // max(self._columns, 1), self._other)

    def _read(self, tensor: FactoredTensor, first: int, tile: Tensor) -> Floats:
        left = len(tensor.own) - first
        return tensor.into(tile[:left], first).view(-1).numpy()


def _cut(expert: FactoredTensor, density: float, tiles: _Tiles) -> tuple[np.float32, int]:
    """The smallest magnitude that is kept, and from which place on no more like it is."""
    size = tiles.base.own.numel()
    if density >= 1 or not size:
        return np.float32(0), size
    if density <= 0:
        return np.float32(np.inf), 0
    kept = max(1, int(density * size))  # like mergekit, at least one
    bits = _magnitudes(expert, tiles)
    bits.partition(size - kept)
    least = bits[-kept]
    if not least or least not in bits[:-kept]:
        return least.view(np.float32), size
    alike = np.flatnonzero(_magnitudes(expert, tiles) == least)
    return least.view(np.float32), int(alike[np.count_nonzero(bits[-kept:] == least)])


def _magnitudes(expert: FactoredTensor, tiles: _Tiles) -> NDArray[np.uint32]:
    """Of a task vector, as bits: they are in the same order, with NaN above all numbers."""
    found = np.empty(tiles.base.own.numel(), np.float32)
    for start, origin in tiles:
        np.abs(tiles.of(expert, start) - origin, out=found[start : start + origin.size])
    return found.view(np.uint32)


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
        size = abs(delta)
        # NaN is kept, to be seen
        kept[k] = np.float32(0) if size < least or (size == least and k >= end) else delta
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
    sign, mixed, divisor = np.empty(_SPAN), np.empty(_SPAN), np.empty(_SPAN)
    for start in range(0, base.size, _SPAN):
        # slices: their indices need no look at whether they are negative, and fit vector units
        origin, whole = base[start : start + _SPAN], total[start : start + _SPAN]
        merged, span = out[start : start + _SPAN], origin.size  # ``total`` may be longer
        for k in range(span):
            sign[k] = 1.0 if whole[k] >= 0 else -1.0
            mixed[k] = divisor[k] = 0.0
        for j in range(weights.size):
            weight, row = weights[j], kept[j, start : start + _SPAN]
            for k in range(span):
                own = weight * row[k] * sign[k]
                mixed[k] += own if own > 0 else 0.0
                divisor[k] += weight if own > 0 else 0.0
        for k in range(span):
            below = divisor[k] if normalize and divisor[k] != 0 else 1.0
            change = scale * mixed[k] * sign[k] / below
            merged[k] = origin[k] + (change if whole[k] == whole[k] else np.nan)
