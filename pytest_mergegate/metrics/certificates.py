"""What can be promised without labels (THEORY section 6).

For any metric in [0, 1] per example, two models' mean scores differ by at most the probability
that their outputs differ.
"""

from . import _checks
from .undefined import Undefined


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
    return _upper(disagreements, n, 1 - _checks.fraction("confidence", confidence))


def disagreement_interval(
    disagreements: int, n: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the two-sided Clopper-Pearson interval of the disagreement rate, in [0, 1].

    Args and errors are those of ``disagreement_bound``; ``confidence`` is two-sided.
    """
    disagreements, n = _counts(disagreements, n)
    tail = (1 - _checks.fraction("confidence", confidence)) / 2
    # By symmetry: the rate of agreement has the mirrored interval.
    return 1 - _upper(n - disagreements, n, tail), _upper(disagreements, n, tail)


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


def _counts(disagreements: int, n: int) -> tuple[int, int]:
    disagreements = _checks.count("disagreements", disagreements)
    n = _checks.count("n", n)
    if disagreements > n:
        raise ValueError(f"{disagreements} disagreements in {n} inputs")
    if n == 0:
        raise Undefined("no_examples", "a disagreement rate needs at least one input")
    return disagreements, n


def _upper(successes: int, n: int, tail: float) -> float:
    if successes == n:
        return 1.0
    from scipy.stats import beta  # not before it is needed: the first stage does without scipy

    return float(beta.isf(tail, successes + 1, n - successes))
