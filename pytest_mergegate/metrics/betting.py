"""Confidence by betting (THEORY section 9): valid at every number of examples, and at every moment
at which somebody may stop.

A gambler who starts with 1 and bets against a hypothesis loses in expectation while it holds, so
that its capital reaches 1/α with a chance of at most α (Ville's inequality). Bets are a mixture:
the capital is that of many gamblers, each of whom stakes the same share on every example
(Waudby-Smith & Ramdas 2020, arXiv 2010.09686). So it does not depend on the order of the examples.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import FloatArray

_STEPS: Final = np.arange(32)
STAKES: Final[FloatArray] = 2.0 ** (-_STEPS / 2)
"""Shares of the largest stake that cannot ruin: from all of it down to a 47,000th."""
SHARES: Final[FloatArray] = (1 / (_STEPS + 4) ** 1.5) / (1 / (_STEPS + 4) ** 1.5).sum()
"""How much of the capital each stake is given, summing to one: large stakes are what little
evidence takes, and much evidence can pay for the wait."""
_HALVINGS: Final = 50
_BLOCK: Final = 1 << 14
"""Examples whose gains are in memory at one time, under every stake."""
_LARGEST: Final = 1e300


def log_capital(gains: FloatArray, counts: FloatArray, most: float) -> float:
    """Return the log of the capital after betting on a positive mean of ``gains``.

    Args:
        gains: Payoffs of a unit stake, each at least ``-most``, shape [n].
        counts: How often each was seen, shape [n].
        most: What a unit stake may lose, above 0.

    Returns:
        The log of a non-negative supermartingale under any mean of at most 0; minus infinity
        where nothing is left.
    """
    return log_total(log_worths(gains, counts, most))


def log_worths(gains: FloatArray, counts: FloatArray, most: float) -> FloatArray:
    """Return the logs of what each stake has made of its share of the capital, shape [stakes]."""
    payoffs = np.maximum(gains / most, -1.0)
    worths: FloatArray = np.log(SHARES)
    with np.errstate(divide="ignore"):  # the largest stake may be lost
        for start in range(0, payoffs.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            worths = worths + np.log1p(np.outer(STAKES, payoffs[part])) @ counts[part]
    return worths


def log_total(worths: FloatArray) -> float:
    """Return the log of the whole capital; the smaller stakes are never lost."""
    highest = float(worths.max())
    return highest + float(np.log(np.exp(worths - highest).sum()))


def ratio_bounds(
    numerators: FloatArray, denominators: FloatArray, tails: tuple[float, float]
) -> tuple[float, float]:
    """Return bounds of E[numerator] / E[denominator] from paired samples.

    Each end is exceeded with at most its own chance, whatever the distribution and whenever
    sampling stops. They hold the ratio of the sample means.

    Args:
        numerators: In [0, 1], shape [n].
        denominators: In [0, 1], shape [n]; not all zero.
        tails: The chance that the lower and the upper end may be wrong, each in (0, 1).
    """
    pairs, counts = np.unique(
        np.stack([numerators, denominators]), axis=1, return_counts=True
    )  # sorted, so that sums do not depend on the order of the examples
    above, below = pairs
    times = counts.astype(np.float64)
    enough_low, enough_high = (-math.log(tail) for tail in tails)
    point = float((times @ above) / (times @ below))

    def is_too_low(ratio: float) -> bool:
        return ratio > 0 and log_capital(above / ratio - below, times, 1.0) >= enough_low

    def is_too_high(ratio: float) -> bool:
        return log_capital(ratio * below - above, times, 1.0) >= enough_high

    low = _edge(is_too_low, 0.0, point)
    within, beyond = point, max(2 * point, 1.0)
    while not is_too_high(beyond):
        within, beyond = beyond, 2 * beyond
        if beyond > _LARGEST:
            return low, math.inf
    return low, _edge(is_too_high, beyond, within)


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of the mean of a quantity in [0, 1], in [0, 1].

    Each end is wrong with a chance of at most (1 - confidence) / 2, whatever the distribution and
    whenever sampling stops. The interval holds the mean of the sample.

    Args:
        values: Independent samples in [0, 1], shape [n].
        confidence: Two-sided level, in (0, 1).

    Raises:
        ValueError: No values, values outside [0, 1], or a bad level.
    """
    tail = (1 - _checks.fraction("confidence", confidence)) / 2
    distinct, counts = _shares(values)
    point = float(counts @ distinct / counts.sum())
    enough = -math.log(tail)

    def is_too_low(mean: float) -> bool:
        return mean > 0 and log_capital(distinct - mean, counts, mean) >= enough

    return _edge(is_too_low, 0.0, point), mean_bound(values, confidence=1 - tail)


def mean_bound(values: ArrayLike, *, confidence: float = 0.95) -> float:
    """Return the one-sided upper bound of such a mean, in [0, 1].

    Args and errors are those of ``mean_interval``; ``confidence`` is one-sided.
    """
    tail = 1 - _checks.fraction("confidence", confidence)
    distinct, counts = _shares(values)
    point = float(counts @ distinct / counts.sum())
    enough = -math.log(tail)

    def is_too_high(mean: float) -> bool:
        return mean >= 1 or log_capital(mean - distinct, counts, 1 - mean) >= enough

    return _edge(is_too_high, 1.0, point)


def _shares(values: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The distinct values, in order, and how often each was seen."""
    sample = _checks.sample("values", values)
    if float(sample.min()) < 0 or float(sample.max()) > 1:
        raise ValueError("values must lie in [0, 1]")
    distinct, counts = np.unique(sample, return_counts=True)
    return distinct, counts.astype(np.float64)


def _edge(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """The number nearest ``outside`` for which ``holds``, as it does for all from ``inside`` on."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return inside
