"""What can be promised without labels (THEORY section 6).

For any metric in [0, 1] per example, two models' mean scores differ by at most the probability
that their outputs differ.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial

from . import _checks
from ._checks import Undefined

# Up to here float64 counts exactly.
_MOST_INPUTS = 2**53
# 1 less a level below has lost too many of its digits.
_LEAST_CONFIDENCE = 1e-6
# Below, 1 less the rate of agreement has.
_RARE = 1e-6


def disagreement_bound(disagreements: int, n: int, *, confidence: float = 0.95) -> float:
    """Return the one-sided Clopper-Pearson upper bound of the disagreement rate, in [0, 1].

    Args:
        disagreements: Inputs on which the outputs differ.
        n: Inputs compared.
        confidence: One-sided level, in (0, 1).

    Raises:
        Undefined: ``no_examples``, n is 0.
        ValueError: Counts that are negative or not whole, or more disagreements than inputs.
    """
    disagreements, n = _counts(disagreements, n)
    return _upper(disagreements, n, 1 - _level(confidence))


def disagreement_interval(
    disagreements: int, n: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the two-sided Clopper-Pearson interval of the disagreement rate, in [0, 1].

    Args and errors are those of ``disagreement_bound``; ``confidence`` is two-sided.
    """
    disagreements, n = _counts(disagreements, n)
    tail = (1 - _level(confidence)) / 2
    return _lower(disagreements, n, tail), _upper(disagreements, n, tail)


def inputs_needed(disagreements: int, n: int, limit: float, *, confidence: float = 0.95) -> int:
    """Return on how few inputs the disagreement bound would be within ``limit`` at this rate.

    The least N for which ``disagreement_bound(ceil(N * disagreements / n), N)`` is at most
    ``limit``: without any disagreement the least with (1 - limit)^N <= 1 - confidence.

    Args:
        disagreements: Inputs on which the outputs differed.
        n: Inputs compared.
        limit: What the bound is held against, in (0, 1].
        confidence: One-sided level, in (0, 1).

    Raises:
        Undefined: ``no_examples``, or ``rate_not_below_limit``: no number of inputs would do.
        ValueError: Bad counts, a limit or level out of range, or more inputs than 2^53.
    """
    disagreements, n = _counts(disagreements, n)
    limit, tail = _unit("limit", limit), 1 - _level(confidence)
    if limit == 1:
        return 1
    if disagreements >= limit * n:
        raise Undefined(
            "rate_not_below_limit",
            f"{disagreements} disagreements in {n} inputs are not below a limit of {limit}",
        )

    # As many as are met with on a fraction of an input, the bound falls steadily; on whole inputs
    # it saws, so from there on every number of disagreements is tried.
    allowed = 0
    if disagreements:
        allowed = _first(lambda k: _is_bounded(k, k * n / disagreements, limit, tail), 1)
    while True:
        needed = _first(partial(_is_bounded, allowed, limit=limit, tail=tail), allowed + 1)
        if disagreements * needed <= allowed * n:
            return needed
        allowed += 1


def _is_bounded(disagreements: int, n: float, limit: float, tail: float) -> bool:
    """Whether the bound of so many disagreements in ``n`` inputs is within ``limit``."""
    from scipy.special import betaincc

    return bool(betaincc(disagreements + 1, n - disagreements, limit) <= tail)


def _first(holds: Callable[[int], bool], start: int) -> int:
    """The least whole number from ``start`` on for which ``holds``; once true, it stays true."""
    size = 1
    while not holds(start + size - 1):
        size *= 2
        if size > _MOST_INPUTS:
            raise ValueError("limit is too small: float64 cannot count so many inputs")
    candidates = range(start, start + size)
    return candidates[bisect_left(candidates, True, key=holds)]


def certified_loss(disagreement_upper: float, expert_score: float) -> float:
    """Return the merging loss in percent that is not exceeded: max(-100, -100·u / P).

    Args:
        disagreement_upper: Upper bound u of the disagreement rate, in [0, 1].
        expert_score: The expert's score P (or a lower bound of it) on a metric in [0, 1].

    Raises:
        Undefined: ``expert_score_zero``.
        ValueError: An argument outside [0, 1]; a score in percent would promise too much.
    """
    upper = _unit("disagreement_upper", disagreement_upper)
    score = _unit("expert_score", expert_score)
    if score == 0:
        raise Undefined("expert_score_zero", "the merging loss needs an expert score above 0")
    return -100.0 * min(1.0, upper / score) + 0.0


def _unit(name: str, value: float) -> float:
    number = _checks.at_least_zero(name, value)
    if number > 1:
        raise ValueError(f"{name} must lie in [0, 1], got {number}")
    return number


def _level(confidence: float) -> float:
    level = _checks.fraction("confidence", confidence)
    if level < _LEAST_CONFIDENCE:
        raise ValueError(f"confidence must be at least {_LEAST_CONFIDENCE:g}, got {level}")
    return level


def _counts(disagreements: int, n: int) -> tuple[int, int]:
    disagreements = _checks.count("disagreements", disagreements)
    n = _checks.count("n", n)
    if n > _MOST_INPUTS:
        raise ValueError(f"n must be at most 2^53, got {n}")
    if disagreements > n:
        raise ValueError(f"{disagreements} disagreements in {n} inputs")
    if n == 0:
        raise Undefined("no_examples", "a disagreement rate needs at least one input")
    return disagreements, n


def _lower(successes: int, n: int, tail: float) -> float:
    # By symmetry: the rate of failures has the mirrored interval.
    lower = 1 - _upper(n - successes, n, tail)
    if successes == 0 or lower > _RARE:
        return lower
    from scipy.special import betaincinv

    return float(betaincinv(successes, n - successes + 1, tail))


def _upper(successes: int, n: int, tail: float) -> float:
    if successes == n:
        return 1.0
    from scipy.special import betainccinv  # not before it is needed: the first stage does without

    return float(betainccinv(successes + 1, n - successes, tail))
