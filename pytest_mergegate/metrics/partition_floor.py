"""What no grouping into so many merged models can beat: the gap of a greedy curve."""

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _scales
from ._checks import FloatArray


def distortion_floor(squared_distances: ArrayLike) -> FloatArray:
    """Return, for 1, 2, .., N merged models, a lower bound on the worst R² of any grouping.

    Of k + 1 experts two share one of k models, whose R² is then at least a quarter of their
    squared distance; and one of k models serves at least ⌈N/k⌉ experts, whose R² is at least
    that of equal weights on them. Takes about N³ steps.

    Args:
        squared_distances: Mean squared distances D2, shape [N, N].

    Returns:
        Array [N], never rising, 0 for N models.

    Raises:
        ValueError: As ``minimum_distortion``.
    """
    matrix = _checks.squared_distance_matrix(squared_distances)
    unit = _scales.spare(matrix)
    matrix = np.ldexp(matrix, -unit)
    return _scales.rounded("the floor", np.maximum(_packed(matrix), _crowded(matrix)), unit)


def _packed(distances: FloatArray) -> FloatArray:
    """A quarter of the least squared distance among k + 1 experts far from each other."""
    best: FloatArray = np.zeros(len(distances))
    for start in range(len(distances)):
        nearest = distances[start].copy()
        for models in range(1, len(distances)):
            # of those picked so far, the next one is no nearer to any than to its nearest
            farthest = int(nearest.argmax())
            best[models - 1] = max(best[models - 1], nearest[farthest] / 4)
            nearest = np.minimum(nearest, distances[farthest])
    return best


def _crowded(distances: FloatArray) -> FloatArray:
    """½ αᵀ D2 α of equal weights on the ⌈N/k⌉ experts that lie closest, or less."""
    count = len(distances)
    # within[i, m-1]: the sum of the m least distances of expert i, that to itself among them
    within = np.cumsum(np.sort(distances, axis=1), axis=1)
    sizes = [-(-count // models) for models in range(1, count + 1)]
    return np.array([np.sort(within[:, m - 1])[:m].sum() / (2 * m * m) for m in sizes])
