"""How far apart two answers are as ROUGE-L can tell (THEORY section 10).

With R the F-measure of two texts' longest common subsequence and D = 1 - R, S = 2D / (1 + D) is a
metric (the Steinhaus transform of the distance by insertions and deletions), and
d = 2S / (1 + S) = 4D / (1 + 3D) bounds by how much their ROUGE-L against any third text differs.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import FloatArray


def common_tokens(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Return the length of the longest common subsequence of two sequences of tokens.

    By bits of one integer (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): as many
    additions as ``second`` has tokens.

    Raises:
        ValueError: An argument is no sequence, or holds what has no hash.
    """
    one, other = _tokens("first", first), _tokens("second", second)
    places: dict[Hashable, int] = {}
    for place, token in enumerate(one):
        places[token] = places.get(token, 0) | (1 << place)
    every = (1 << len(one)) - 1
    unmatched = every
    for token in other:
        met = unmatched & places.get(token, 0)
        unmatched = ((unmatched + met) | (unmatched - met)) & every
    return len(one) - unmatched.bit_count()


def rouge_l_distance(common: ArrayLike, first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Return d = 4D / (1 + 3D) of pairs of texts, D = 1 - 2·common / (first + second).

    Against any target the ROUGE-L of the two texts differs by at most d, and by d for some.

    Args:
        common: Tokens of the longest common subsequence, shape [n].
        first: Tokens of the one text, shape [n].
        second: Tokens of the other, shape [n].

    Returns:
        Distances in [0, 1], shape [n]; 0 where both texts are empty.

    Raises:
        ValueError: Counts that are negative, not whole, of unequal shapes, or more common tokens
            than a text has.
    """
    shared, one, other = (
        _counts(name, values)
        for name, values in {"common": common, "first": first, "second": second}.items()
    )
    if not shared.shape == one.shape == other.shape:
        raise ValueError("common, first and second must have one shape")
    if np.any(shared > np.minimum(one, other)):
        raise ValueError("two texts cannot have more common tokens than either has")
    total = one + other
    return np.where(
        total > 0, 2 * (total - 2 * shared) / np.maximum(2 * total - 3 * shared, 1), 0.0
    )


def _tokens(name: str, value: Sequence[Hashable]) -> list[Hashable]:
    tokens = _checks.items(name, value)
    try:
        set(tokens)
    except TypeError as error:
        raise ValueError(f"{name} must hold tokens that can be told apart: {error}") from None
    return tokens


def _counts(name: str, values: ArrayLike) -> FloatArray:
    counts = _checks.array(name, values)
    if np.any(counts < 0) or np.any(counts != np.floor(counts)):
        raise ValueError(f"{name} must be whole numbers, at least 0")
    return counts
