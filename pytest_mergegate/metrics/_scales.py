"""Powers of two, so that no square overflows float64 and none vanishes.

A power of two multiplies without round-off: what is computed on scaled numbers and scaled back is
what float64 would have given had it no ends. Sizes outside its range are a number and an exponent,
value·2^exponent, until they are handed out.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import FloatArray

Exponents = NDArray[np.int64]

LARGEST = 2.0**900
"""Sums of squares up to here, and down to ``SMALLEST``, lost nothing that matters to either end."""
SMALLEST = 1 / LARGEST
ROOT = 2.0**450
"""The root of ``LARGEST``: the norms that can be squared."""
# The exponent of a zero: below all others, so that it never decides on a common one.
_ZERO = -(1 << 14)
_TOO_LARGE = "{} is too large for float64; scale the input down"
_TOO_SMALL = "{} is too small for float64; scale the input up"


def trusted(squares: ArrayLike) -> NDArray[np.bool_]:
    """Tell which sums of squares lie where float64 loses nothing; NaN and zero do not."""
    found: NDArray[np.bool_] = (np.asarray(squares) >= SMALLEST) & (np.asarray(squares) <= LARGEST)
    return found


def trusted_roots(norms: FloatArray) -> NDArray[np.bool_]:
    """Tell which norms have a trusted square; NaN and zero have none."""
    found: NDArray[np.bool_] = (norms >= 1 / ROOT) & (norms <= ROOT)
    return found


def exponent(values: ArrayLike) -> int:
    """Return e with the largest absolute value in [2^(e-1), 2^e); 0 where all are zero."""
    return math.frexp(float(np.abs(values).max(initial=0.0)))[1]


def row_exponents(rows: FloatArray) -> Exponents:
    """Return the same for every row, along the last axis, which is kept; far below for zeros."""
    sizes, exponents = np.frexp(np.abs(rows).max(axis=-1, keepdims=True))
    return np.where(sizes > 0, exponents.astype(np.int64), _ZERO)


def sizes(rows: FloatArray, exponents: Exponents) -> Exponents:
    """Return the exponents of the largest of rows [..., n, d] that have ``exponents`` [..., n]."""
    found: Exponents = (row_exponents(rows)[..., 0] + exponents).max(axis=-1)
    return found


def spare(matrix: FloatArray) -> int:
    """Return the exponent to divide by, lest sums of the elements overflow, or halves vanish.

    Mostly 0. Large elements are divided by no more than it takes: small ones beside them remain.
    """
    size = exponent(matrix)
    if size > 960:
        return 32
    return size if size < -900 else 0


def shifted(values: ArrayLike, exponents: ArrayLike) -> FloatArray:
    """Return values·2^exponents; what float64 cannot hold is infinite or zero."""
    with np.errstate(over="ignore"):
        return np.asarray(np.ldexp(values, exponents))


def restored(name: str, values: ArrayLike, exponents: ArrayLike = 0) -> FloatArray:
    """Return values·2^exponents.

    Beside a larger element one may round to zero; that all do is an error.

    Raises:
        ValueError: Float64 cannot hold one of them, or all are too small for it.
    """
    found = _finite(name, shifted(values, exponents))
    if not found.any() and np.any(values):
        raise ValueError(_TOO_SMALL.format(name))
    return found


def rounded(name: str, values: ArrayLike, exponents: ArrayLike = 0) -> FloatArray:
    """Return values·2^exponents that have the unit of an input: what vanishes beside it is zero.

    Raises:
        ValueError: Float64 cannot hold one of them.
    """
    return _finite(name, shifted(values, exponents))


def _finite(name: str, values: FloatArray) -> FloatArray:
    if not np.isfinite(values).all():
        raise ValueError(_TOO_LARGE.format(name))
    return values


def differences(first: FloatArray, second: FloatArray) -> tuple[FloatArray, Exponents]:
    """Return first - second by rows, and their exponents: 1 where float64 cannot hold a row."""
    with np.errstate(over="ignore"):
        apart = first - second
    over = np.asarray(~np.isfinite(apart).all(axis=-1))
    if over.any():
        apart[over] = (first / 2 - second / 2)[over]
    return apart, np.asarray(over, dtype=np.int64)


def norms(rows: FloatArray) -> tuple[FloatArray, Exponents]:
    """Return the Euclidean norms along the last axis, which is kept, and their exponents."""
    with np.errstate(over="ignore"):
        found = np.asarray(np.linalg.norm(rows, axis=-1, keepdims=True))
    if trusted_roots(found).all():
        return found, np.zeros(found.shape, dtype=np.int64)
    exponents = row_exponents(rows)
    scaled = np.ldexp(rows, -exponents)
    return np.asarray(np.linalg.norm(scaled, axis=-1, keepdims=True)), exponents


def distances(first: FloatArray, second: FloatArray) -> tuple[FloatArray, Exponents]:
    """Return the Euclidean distances of the rows [n, d], and their exponents."""
    if np.array_equal(first, second):
        return np.zeros(len(first)), np.full(len(first), _ZERO, dtype=np.int64)
    apart, halved = differences(first, second)
    found, exponents = norms(apart)
    return found[..., 0], exponents[..., 0] + halved


def mean(values: FloatArray, exponents: ArrayLike = 0) -> tuple[FloatArray, Exponents]:
    """Return the mean along the first axis, and its exponents."""
    sizes, each = np.frexp(values)
    each = np.where(sizes == 0, _ZERO, each + np.asarray(exponents))
    common = each.max(axis=0)
    found = np.mean(np.ldexp(sizes, each - common), axis=0)
    return np.asarray(found), np.asarray(common, dtype=np.int64)


def total(values: Iterable[float], exponents: Iterable[int] | None = None) -> tuple[float, int]:
    """Return the sum of numbers, which may have exponents, and its exponent."""
    sizes = [math.frexp(value) for value in values]
    each = [0] * len(sizes) if exponents is None else list(exponents)
    found = [(size, own + more) for (size, own), more in zip(sizes, each, strict=True)]
    common = max((exponent for size, exponent in found if size), default=0)
    return sum(math.ldexp(size, exponent - common) for size, exponent in found if size), common


def quotient(name: str, above: float, below: float, exponent: int = 0) -> float:
    """Return above / below·2^exponent for ``below`` other than zero.

    Raises:
        ValueError: Float64 cannot hold it.
    """
    top, up = math.frexp(above)
    bottom, down = math.frexp(below)
    ratio = top / bottom
    try:
        found = math.ldexp(ratio, up - down + exponent)
    except OverflowError:
        raise ValueError(_TOO_LARGE.format(name)) from None
    if ratio and not found:
        raise ValueError(_TOO_SMALL.format(name))
    return found
