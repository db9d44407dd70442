"""Checks of the inputs that all equations share; every failure is a ``ValueError``.

No number is computed where float64 would lose it: what is to be squared is refused beyond
``LARGEST``, far outside of float32, and a quotient that overflows or vanishes is an error.
"""

import math
import operator
import sys
from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Item = TypeVar("Item")

LARGEST = 2.0**200
"""Up to here, and down to its inverse, float64 loses nothing of squares, nor of the squares of
differences and quotients. The numbers of float32 end at 2^128 and 2^-149."""
_LARGEST_SQUARE = LARGEST**3
# Relative to the largest entry: what float64 sums over many states may leave behind.
SYMMETRY_TOLERANCE = 1e-9
# Squared distances that were stored in single precision still pass.
EUCLIDEAN_TOLERANCE = 1e-6


class Undefined(ValueError):
    """A number that is undefined by convention (THEORY sections 1-7).

    Raised in place of a NaN, which would slip through every comparison, and of a zero, which
    would read as a result.

    Attributes:
        reason: A snake_case word for reports, such as ``equidistant``.
    """

    def __init__(self, reason: str, message: str) -> None:
        # Both go to the base class, so that the exception survives pickling between workers.
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


def number(name: str, value: float) -> float:
    """Return ``value`` as a float, which may be NaN or infinite."""
    if isinstance(value, (str, bytes, bytearray)):
        raise ValueError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name} is too large for float64") from None


def finite(name: str, value: float) -> float:
    """Return ``value`` as a float, refusing NaN and infinity."""
    found = number(name, value)
    if not math.isfinite(found):
        raise ValueError(f"{name} must be finite, got {found}")
    return found


def at_least_zero(name: str, value: float) -> float:
    """Return a finite ``value`` of at least 0."""
    found = finite(name, value)
    if found < 0:
        raise ValueError(f"{name} must not be negative, got {found}")
    return found


def fraction(name: str, value: float) -> float:
    """Return ``value`` strictly between 0 and 1."""
    found = finite(name, value)
    if not 0 < found < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {found}")
    return found


def ratio(name: str, above: float, below: float) -> float:
    """Return ``above`` / ``below``, refusing one that float64 cannot hold."""
    found = above / below
    if above and not sys.float_info.min <= abs(found) <= sys.float_info.max:
        raise ValueError(f"{name} is too large or too small for float64")
    return found


def count(name: str, value: int, *, least: int = 0) -> int:
    """Return ``value`` as an int of at least ``least``; a float or a bool is refused."""
    if isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be a whole number, got {value}")
    try:
        found = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if found < least:
        raise ValueError(f"{name} must be at least {least}, got {found}")
    return found


def array(name: str, value: ArrayLike, *, ndim: int | None = None) -> FloatArray:
    """Return ``value`` as a finite float64 array, with ``ndim`` dimensions if given."""
    result = numbers(name, value)
    if ndim is not None and result.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {result.shape}")
    if not np.isfinite(result).all():
        raise ValueError(f"{name} must be finite, it holds NaN or infinity")
    return result


def numbers(name: str, value: ArrayLike) -> FloatArray:
    """Return ``value`` as a float64 array; it may hold NaN (which None becomes) and infinity."""
    try:
        # As it is first: told to make numbers, numpy would read them from strings.
        raw = np.asarray(value)
        holds_text = raw.dtype.kind == "O" and any(isinstance(e, (str, bytes)) for e in raw.flat)
        if raw.dtype.kind not in "biufO" or holds_text:
            raise TypeError(f"got {raw.dtype.name}")
        with np.errstate(over="ignore"):  # of a wider type; infinity is seen below
            return raw.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from None


def squarable(name: str, value: ArrayLike, *, ndim: int | None = None) -> FloatArray:
    """Return the same of numbers to be squared: 0, or of a size up to ``LARGEST`` either way."""
    result = array(name, value, ndim=ndim)
    sizes = np.abs(result)
    if ((sizes > LARGEST) | (sizes < 1 / LARGEST) & (sizes > 0)).any():
        raise ValueError(
            f"{name} must be 0 or between {1 / LARGEST:.2g} and {LARGEST:.2g} in size: float64 "
            "loses the squares of other numbers; scale them"
        )
    return result


def require_sums(name: str, largest: float) -> None:
    """Refuse sums of squares of which the ``largest``, in size, is such that float64 loses some."""
    if largest and not 1 / _LARGEST_SQUARE <= largest <= _LARGEST_SQUARE:
        raise ValueError(f"{name} is too large or too small for float64; scale it")


def weights(value: ArrayLike, experts: int) -> FloatArray:
    """Return ``value`` as a vector of one weight per expert, none beyond ``LARGEST`` in size."""
    result = array("weights", value, ndim=1)
    if len(result) != experts:
        raise ValueError(f"weights must have length {experts}, got {len(result)}")
    if float(np.abs(result).max(initial=0.0)) > LARGEST:
        raise ValueError(f"weights must not be beyond {LARGEST:.2g}: too large for float64")
    return result


def items(name: str, value: Iterable[Item]) -> list[Item]:
    """Return the elements of a sequence or another iterable, in a list."""
    try:
        return list(value)
    except TypeError:
        raise ValueError(f"{name} must be a sequence, got {type(value).__name__}") from None


def instance(name: str, value: object, kind: type) -> None:
    """Refuse a ``value`` of another kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {kind.__name__}, got {type(value).__name__}")


def sample(name: str, value: ArrayLike) -> FloatArray:
    """Return a finite vector with at least one element."""
    result = array(name, value, ndim=1)
    if result.size == 0:
        raise ValueError(f"{name} must not be empty")
    return result


def paired_scores(scores: Mapping[str, ArrayLike]) -> list[FloatArray]:
    """Return scores in [0, 1] of several models on the same examples, by the name of each."""
    found = [sample(name, values) for name, values in scores.items()]
    sizes = [values.size for values in found]
    if len(set(sizes)) > 1:
        said = " and ".join(map(str, sizes))
        raise ValueError(f"{' and '.join(scores)} must cover the same examples, got {said}")
    for name, values in zip(scores, found, strict=True):
        if float(values.min()) < 0 or float(values.max()) > 1:
            raise ValueError(f"{name} must lie in [0, 1]")
    return found


def symmetric(name: str, value: ArrayLike) -> FloatArray:
    """Return a finite symmetric matrix, its round-off asymmetry removed."""
    matrix = array(name, value, ndim=2)
    if matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"{name} must be a square matrix, got shape {matrix.shape}")
    largest = float(np.abs(matrix).max())
    require_sums(name, largest)
    if float(np.abs(matrix - matrix.T).max()) > SYMMETRY_TOLERANCE * largest:
        raise ValueError(f"{name} must be symmetric")
    return 0.5 * (matrix + matrix.T)


def distance_matrix(name: str, value: ArrayLike) -> FloatArray:
    """Return a symmetric matrix of distances: nothing negative, zeros on the diagonal."""
    matrix = symmetric(name, value)
    if float(matrix.min()) < 0:
        raise ValueError(f"{name} must not hold negative distances")
    if float(np.diagonal(matrix).max()) > SYMMETRY_TOLERANCE * float(matrix.max()):
        raise ValueError(f"{name} must be zero on the diagonal")
    np.fill_diagonal(matrix, 0.0)
    return matrix


def squared_distance_matrix(value: ArrayLike) -> FloatArray:
    """Return a matrix of squared Euclidean distances between N points.

    Raises ``ValueError`` where no points have these squared distances: on such a matrix the
    problem of the enclosing ball is not concave and its bounds promise nothing.
    """
    matrix = distance_matrix("squared_distances", value)
    scaled = matrix / (float(matrix.max()) or 1.0)
    # the Gram matrix of the points about their mean, -½ J D2 J
    rows = scaled - scaled.mean(axis=0)
    if not _has_points(-0.5 * (rows - rows.mean(axis=1, keepdims=True))):
        raise ValueError(
            "squared_distances must be mean squared distances between points; no points have these"
        )
    return matrix


def gram_matrix(value: ArrayLike) -> FloatArray:
    """Return a Gram matrix of N shifts. Raises ``ValueError`` where no shifts have it."""
    matrix = symmetric("gram", value)
    if not _has_points(matrix / (float(np.abs(matrix).max()) or 1.0)):
        raise ValueError("gram must be a Gram matrix of shifts: it has a negative eigenvalue")
    return matrix


def _has_points(gram: FloatArray) -> bool:
    lowest = float(np.linalg.eigvalsh(gram)[0])
    return lowest >= -EUCLIDEAN_TOLERANCE * len(gram)
