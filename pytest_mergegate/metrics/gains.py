"""How much of what an expert adds to its base a merge keeps (THEORY section 9).

The merging loss says little where the base is good by itself: an expert of .29 over a base of .22
loses 19 % when four fifths of what it had added are gone.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import FloatArray, Undefined
from .betting import log_total, log_worths

_ROUND_OFF: Final = 1e-12
"""Below this share of the scores a gain is round-off (0.1 + 0.2 against 0.3)."""
_FINEST: Final = 2.0**-32
"""The shortest step in search of an end."""
_MOST_STEPS: Final = 1000
"""Steps in search of an end; a hundred or so are taken."""


def gain_kept(merged: float, expert: float, base: float) -> float:
    """Return the gain kept g = (merged - base) / (expert - base).

    1 where the merge scores like the expert, 0 where it scores like the base; it may be negative,
    and above 1. Scores are in any one unit; sums over the same examples do, and are exact where
    every score is 0 or 1.

    Raises:
        Undefined: ``expert_gains_nothing``, the expert scores no more than its base.
        ValueError: A score is NaN or infinite, or float64 cannot hold the gain kept.
    """
    merged, expert = _checks.finite("merged", merged), _checks.finite("expert", expert)
    base = _checks.finite("base", base)
    gain = expert - base
    if gain <= _ROUND_OFF * max(abs(expert), abs(base)):
        raise _gains_nothing(expert, base)
    return _checks.ratio("the gain kept", merged - base, gain)


def gain_kept_interval(
    merged_scores: ArrayLike,
    expert_scores: ArrayLike,
    base_scores: ArrayLike,
    *,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of the gain kept (THEORY section 9).

    Each end is wrong with a chance of at most (1 - confidence) / 2, whatever the distribution of
    the scores, at every number of examples, and whenever sampling stops. The interval has all g
    that betting on (1 - g)·base + g·expert - merged, example by example, does not reject, and what
    lies between them; so it holds the gain kept of the sample.

    Args:
        merged_scores: Per-example scores of the merged model in [0, 1], shape [n].
        expert_scores: Per-example scores of the expert on the same examples, shape [n].
        base_scores: Per-example scores of the base on the same examples, shape [n].
        confidence: Two-sided level, in (0, 1).

    Raises:
        Undefined: ``expert_gains_nothing``, the expert scores no more than its base; or
            ``expert_gain_unclear``, so few examples or so small a gain that betting on
            expert - base does not show that there is one, at half of 1 - confidence.
        ValueError: Empty or unequal scores, scores outside [0, 1], or a bad level.
    """
    merged, expert, base = _checks.paired_scores(
        {
            "merged_scores": merged_scores,
            "expert_scores": expert_scores,
            "base_scores": base_scores,
        }
    )
    enough = -math.log((1 - _checks.fraction("confidence", confidence)) / 2)
    gain_kept(float(merged.sum()), float(expert.sum()), float(base.sum()))
    # sorted, so that sums do not depend on the order of the examples
    distinct, counts = np.unique(np.stack([merged, expert, base]), axis=1, return_counts=True)
    merged, expert, base = distinct
    times = counts.astype(np.float64)
    # Bets that g is larger, or smaller, as g comes from beyond all bounds through 0 and 1, or 1 and
    # 0, and leaves on the other side; outside of [0, 1] per unit of g, so that none loses over 1.
    larger = [expert - base, merged - base, merged - expert, base - expert]
    smaller = [expert - base, expert - merged, base - merged, base - expert]
    below, above = (_won_up_to(payoffs, times, enough) for payoffs in (larger, smaller))
    if not (below and above):
        raise Undefined(
            "expert_gain_unclear",
            f"{counts.sum()} examples do not show that the expert scores more than its base",
        )
    return _at(below), 1 - _at(above)


def _won_up_to(payoffs: Sequence[FloatArray], counts: FloatArray, enough: float) -> float:
    """How far along a path bets have won ``enough`` everywhere, in corners from the first.

    On the way from one corner to the next payoffs are linear, and the log of what a stake has made
    is concave: between two places it is at least the smaller of what it is at both. Nothing is
    passed over that is not won, though the whole capital may rise and fall.
    """
    place, here = 0.0, log_worths(payoffs[0], counts, 1.0)
    step, steps = 1.0, 0
    while step > _FINEST and (steps := steps + 1) < _MOST_STEPS:
        corner = int(place)
        if corner == len(payoffs) - 1:
            break
        ahead = min(place + step, corner + 1.0)
        share = ahead - corner
        there = log_worths((1 - share) * payoffs[corner] + share * payoffs[corner + 1], counts, 1.0)
        if log_total(np.minimum(here, there)) >= enough:
            place, here, step = ahead, there, min(1.0, 2 * step)
        else:
            step /= 2
    return place


def _at(place: float) -> float:
    """The g at a place of the path on which it comes from minus infinity: 0 at 1, and 1 at 2."""
    if place < 1:
        return 1 - 1 / place
    return place - 1 if place <= 2 else 1 / (3 - place)


def _gains_nothing(expert: float, base: float) -> Undefined:
    return Undefined(
        "expert_gains_nothing",
        f"the gain kept needs an expert that scores more than its base: {expert} against {base}",
    )
