"""Checks of the inputs that all equations share; every failure is a ``ValueError``."""

import math
import operator
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Item = TypeVar("Item")

# Relative to the largest entry: what float64 sums over many states may leave behind.
SYMMETRY_TOLERANCE = 1e-9
# Squared distances that were stored in single precision still pass.
EUCLIDEAN_TOLERANCE = 1e-6


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
        if raw.dtype.kind not in "biufO" or (raw.dtype.kind == "O" and _holds_text(raw)):
            raise TypeError(f"got {raw.dtype.name}")
        with np.errstate(over="ignore"):  # of a wider type; infinity is seen below
            return raw.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from None


def _holds_text(raw: NDArray[np.object_]) -> bool:
    return any(isinstance(each, (str, bytes)) for each in raw.flat)


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


def symmetric(name: str, value: ArrayLike) -> FloatArray:
    """Return a finite symmetric matrix, its round-off asymmetry removed."""
    matrix = array(name, value, ndim=2)
    if matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"{name} must be a square matrix, got shape {matrix.shape}")
    # Halves, whose difference float64 can hold.
    half = 0.5 * matrix
    if float(np.abs(half - half.T).max()) > SYMMETRY_TOLERANCE * float(np.abs(half).max()):
        raise ValueError(f"{name} must be symmetric")
    # The half of a number that is nearly zero may be zero: equal ones stay as they are.
    return np.where(matrix == matrix.T, matrix, half + half.T)


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
    scale = float(matrix.max())
    if scale > 0:
        lowest = float(np.linalg.eigvalsh(centred_gram(matrix / scale))[0])
        if lowest < -EUCLIDEAN_TOLERANCE * len(matrix):
            raise ValueError(
                "squared_distances must be mean squared distances between points; "
                "no points have these"
            )
    return matrix


def centred_gram(squared_distances: FloatArray) -> FloatArray:
    """Return the Gram matrix of the points about their mean, -½ J D2 J."""
    rows = squared_distances - squared_distances.mean(axis=0)
    gram: FloatArray = -0.5 * (rows - rows.mean(axis=1, keepdims=True))
    return gram


def order_statistics(values: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Return the ends of the central interval along axis 0, as elements of ``values``.

    Elements, not interpolations: between an infinite and a finite value (or two infinities)
    an interpolation is NaN. The ranks are rounded outwards.
    """
    ordered = np.sort(values, axis=0)
    skipped = math.floor((1 - confidence) / 2 * (len(ordered) - 1))
    return ordered[skipped], ordered[len(ordered) - 1 - skipped]
