"""Runs of stored bfloat16, compiled: worth it for checkpoints of millions of numbers."""

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.compiled import compiled

Bits = NDArray[np.uint16]

_SPAN = 512


@compiled
def squared_distance(own: Bits, base: Bits) -> float:
    """Σ(own - base)² in float64 of numbers given as uint16, the upper halves of float32; not
    finite where one of them is not."""
    own_bits, base_bits = np.empty(_SPAN, np.uint32), np.empty(_SPAN, np.uint32)
    own_floats, base_floats = own_bits.view(np.float32), base_bits.view(np.float32)
    total = 0.0
    for start in range(0, own.shape[0], _SPAN):
        stop = min(start + _SPAN, own.shape[0])
        widen(own[start:stop], own_bits)
        widen(base[start:stop], base_bits)
        total += _square(own_floats[: stop - start], base_floats)
    return total


@compiled
def widen(stored: Bits, bits: NDArray[np.uint32]) -> None:
    """The bits of float32 with the same values; ``bits`` may be longer."""
    for k in range(stored.shape[0]):
        bits[k] = np.uint32(stored[k]) << np.uint32(16)


@compiled
def _square(own: NDArray[np.float32], base: NDArray[np.float32]) -> float:
    total = 0.0
    for k in range(own.shape[0]):
        difference = np.float64(own[k]) - np.float64(base[k])
        total += difference * difference
    return total
