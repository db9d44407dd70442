"""TIES as mergekit computes it, without sorting whole tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from pytest_mergegate.common.compiled import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pytest_mergegate.engine.weights.mixing import Rows
    from pytest_mergegate.merging.method import Method

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Bits = NDArray[np.uint32]
    Places = NDArray[np.int64]

_SPAN = 512
"""Numbers of every task vector that stay in the fastest cache at a time."""
_TILE = 1 << 16
"""Numbers of a tensor that stay in a core's cache at a time, with those of others."""
_SAMPLE = 1 << 14
"""Magnitudes that tell about where the cut is."""
_GOLDEN = 0.6180339887498949
"""Steps of this share of a tensor fall on all its rows and columns alike."""
_INFINITE = np.uint32(0xFFFFFFFF)
"""Above the bits of every magnitude, NaN's too; as integers they are in the same order."""
_DEVIATIONS = 3.0
"""Standard deviations, by which a magnitude's place in the sample may be off."""


def put_ties(method: Method, base: Rows, experts: Mapping[str, Rows], place: Tensor) -> None:
    """Write the merge of one parameter to ``place``.

    Of every task vector the ``density`` share that is largest in magnitude is kept, a sign
    elected by the weighted sum, and what has that sign averaged (Yadav et al. 2023). No task
    vector is ever written out, and no expert: some rows are made at a time, once to find what is
    kept and once to merge it.
    """
    tiles, size = _Tiles(base), base.own.numel()
    kept = _kept(size, float(method.parameters.get("density", 1.0)))
    cuts = _cuts([*experts.values()], kept, tiles)
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

    def __init__(self, base: Rows) -> None:
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

    def of(self, tensor: Rows, start: int) -> Floats:
        """The same tile of another tensor, until the next call."""
        return self._read(tensor, start // max(self._columns, 1), self._other)

    def _read(self, tensor: Rows, first: int, tile: Tensor) -> Floats:
        left = len(tensor.own) - first
        return tensor.into(tile[:left], first).view(-1).numpy()


def _kept(size: int, density: float) -> int:
    """How many numbers mergekit keeps: at least one, but none at density 0."""
    if density >= 1:
        return size
    return max(1, int(density * size)) if density > 0 and size else 0


def _cuts(experts: Sequence[Rows], kept: int, tiles: _Tiles) -> list[tuple[np.float32, int]]:
    """Of every expert the smallest magnitude that is kept, and from which place on no more of it
    is."""
    size = tiles.base.own.numel()
    if kept in (0, size):
        return [(np.float32(0) if kept else np.float32(np.inf), kept)] * len(experts)
    near = _brackets(experts, kept, tiles)
    _look(experts, near, tiles)
    for expert, bracket in zip(experts, near, strict=True):
        if not bracket.holds(kept):  # the sample was misleading
            bracket.widen(size)
            _look([expert], [bracket], tiles)
    return [bracket.cut(kept, size) for bracket in near]


def _brackets(experts: Sequence[Rows], kept: int, tiles: _Tiles) -> list[_Bracket]:
    """Between which two magnitudes the smallest that is kept should be, by a sample of them."""
    size = tiles.base.own.numel()
    if size <= _SAMPLE:
        return [_Bracket(np.uint32(0), _INFINITE, size) for _ in experts]
    at = torch.arange(_SAMPLE) * (int(size * _GOLDEN) | 1) % size
    origin = tiles.base.at(at)
    middle = (1 - kept / size) * _SAMPLE
    spread = _DEVIATIONS * math.sqrt(middle * kept / size) + 1
    ends = max(int(middle - spread), 0), min(int(middle + spread), _SAMPLE - 1)
    room = int(4 * spread / _SAMPLE * size)
    found = []
    for expert in experts:
        drawn = (expert.at(at) - origin).abs().numpy()
        low, high = np.partition(drawn, ends)[[*ends]].view(np.uint32)
        found.append(_Bracket(low, high, room))
    return found


def _look(experts: Sequence[Rows], near: Sequence[_Bracket], tiles: _Tiles) -> None:
    """Show every bracket the magnitudes of its expert's task vector."""
    for start, origin in tiles:
        for expert, bracket in zip(experts, near, strict=True):
            bracket.look(tiles.of(expert, start), origin, start)


class _Bracket:
    """The magnitudes, as bits, from ``low`` up to ``high``, if there are no more than ``room``."""

    def __init__(self, low: np.uint32, high: np.uint32, room: int) -> None:
        self._low, self._high = low, high
        self._bits, self._places = np.empty(room, np.uint32), np.empty(room, np.int64)
        self._found, self._above = 0, 0

    def widen(self, room: int) -> None:
        """Begin again, with all magnitudes."""
        self.__init__(np.uint32(0), _INFINITE, room)  # type: ignore[misc]

    def look(self, own: Floats, base: Floats, start: int) -> None:
        """Take in what is between of ``own - base``, whose first number stands at ``start``."""
        rest = slice(self._found, None)
        bits, places = self._bits[rest], self._places[rest]
        above, found = _find(own, base, start, self._low, self._high, bits, places)
        self._above += above
        self._found += found

    def holds(self, kept: int) -> bool:
        """Whether the smallest of the ``kept`` largest is between."""
        return self._above < kept <= self._above + self._found <= self._above + len(self._bits)

    def cut(self, kept: int, size: int) -> tuple[np.float32, int]:
        """Its magnitude, and the place from which on no more like it is kept; ``size`` if all."""
        bits, places = self._bits[: self._found], self._places[: self._found]
        wanted = kept - self._above
        least = np.partition(bits, len(bits) - wanted)[len(bits) - wanted]
        equal = places[bits == least]
        left = wanted - int(np.count_nonzero(bits > least))
        end = int(equal[left]) if left < len(equal) and least else size
        return least.view(np.float32), end


@compiled
def _find(
    own: Floats,
    base: Floats,
    offset: int,
    low: np.uint32,
    high: np.uint32,
    bits: Bits,
    places: Places,
) -> tuple[int, int]:
    """How many magnitudes of ``own - base`` are above ``high``, and how many from ``low`` up to it:
    these are written down, as bits and where they stand behind ``offset``, as long as there is
    room."""
    bits_here, marks = np.empty(_SPAN, np.uint32), np.zeros(_SPAN, np.uint8)
    magnitudes, eights = bits_here.view(np.float32), marks.view(np.uint64)
    above, found = 0, 0
    for start in range(0, own.size, _SPAN):
        # slices: their indices need no look at whether they are negative, and fit vector units
        mine, base_here = own[start : start + _SPAN], base[start : start + _SPAN]
        for k in range(mine.size):
            magnitudes[k] = abs(mine[k] - base_here[k])
        for k in range(mine.size):
            above += bits_here[k] > high
        for k in range(mine.size):
            marks[k] = np.uint8(bits_here[k] - low <= high - low)
        marks[mine.size :] = 0
        for eight in range(eights.size):
            if eights[eight]:
                for k in range(8 * eight, 8 * eight + 8):
                    if marks[k]:
                        if found < bits.size:
                            bits[found] = bits_here[k]
                            places[found] = offset + start + k
                        found += 1
    return above, found


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
    sign, mixed, divisor = np.empty(_SPAN), np.empty(_SPAN), np.empty(_SPAN)
    for start in range(0, base.size, _SPAN):
        # slices, as in _find
        base_here, whole = base[start : start + _SPAN], total[start : start + _SPAN]
        merged, span = out[start : start + _SPAN], base_here.size  # ``total`` may be longer
        for k in range(span):
            sign[k] = 1.0 if whole[k] >= 0 else -1.0
            mixed[k] = 0.0
            divisor[k] = 0.0
        for j in range(len(weights)):
            weight, row = weights[j], kept[j, start : start + _SPAN]
            for k in range(span):
                own = weight * row[k] * sign[k]
                mixed[k] += own if own > 0 else 0.0
                divisor[k] += weight if own > 0 else 0.0
        for k in range(span):
            below = divisor[k] if normalize and divisor[k] != 0 else 1.0
            change = scale * mixed[k] * sign[k] / below
            merged[k] = base_here[k] + (change if whole[k] == whole[k] else np.nan)
