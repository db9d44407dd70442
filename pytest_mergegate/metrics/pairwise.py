"""Conflict ratios of all pairs at once (THEORY section 2), and what sampling leaves uncertain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

DIFFERENCE, CONFLICTING, SIGN_CHANGES, DOT, SIZE_A, SIZE_B, SQUARE_A, SQUARE_B = range(8)
"""Σ|a - b|, its part where signs differ, the number of those positions, ⟨a, b⟩, Σ|a|, Σ|b|, ‖a‖²
and ‖b‖²: the sums behind every ratio, as indices of an array's first axis."""
QUANTITIES = 8
RATIOS = (
    "magnitude_change_ratio",
    "sign_change_ratio",
    "conflicting_magnitude_ratio",
    "cosine",
)
"""The methods of PairwiseConflicts that give one."""


@dataclass(frozen=True, kw_only=True)
class PairwiseConflicts:
    """Sums over positions for every pair (a, b) of experts, and the ratios that follow.

    Every ratio is an array [..., experts, experts], NaN where it is undefined; what stands before
    the experts, such as tensors, is the caller's.
    """

    sums: Doubles
    """[8, ..., experts, experts]."""
    positions: Doubles
    """[..., experts, experts]: the number of positions that a or b may change."""

    @classmethod
    def of_tensors(
        cls, triangles: Doubles, changed: NDArray[np.bool_], sizes: NDArray[np.int64]
    ) -> "PairwiseConflicts":
        """From the sums over one tensor or several.

        Args:
            triangles: [4, ..., experts, experts] of the first four sums in the upper triangle. On
                the diagonal each task vector meets zero: Σ|a|, Σ|a|, its non-zeros and ‖a‖².
            changed: [..., experts], whether the expert may change the tensor.
            sizes: [...], the tensors' numbers of elements.
        """
        alone = np.diagonal(triangles, axis1=-2, axis2=-1)
        upper = np.triu(triangles)
        both = changed[..., :, np.newaxis] & changed[..., np.newaxis, :]
        either = changed[..., :, np.newaxis] | changed[..., np.newaxis, :]
        sums = np.empty((QUANTITIES, *triangles.shape[1:]))
        a, b = alone[..., :, np.newaxis], alone[..., np.newaxis, :]
        # where one of the two leaves the tensor alone, the other meets zero
        sums[:DOT] = np.where(both, upper + np.triu(upper, 1).swapaxes(-1, -2), a + b)[:DOT]
        sums[DOT] = upper[DOT] + np.triu(upper[DOT], 1).swapaxes(-1, -2)
        sums[SIZE_A], sums[SIZE_B] = a[DIFFERENCE], b[DIFFERENCE]
        sums[SQUARE_A], sums[SQUARE_B] = a[DOT], b[DOT]
        return cls(sums=sums, positions=either * np.asarray(sizes, float)[..., None, None])

    def total(self, members: NDArray[np.bool_] | None = None) -> "PairwiseConflicts":
        """Over all tensors, the axis before the experts', or those that are ``members``."""
        chosen = slice(None) if members is None else members
        return PairwiseConflicts(
            sums=self.sums[:, chosen].sum(axis=1), positions=self.positions[chosen].sum(axis=0)
        )

    def magnitude_change_ratio(self) -> Doubles:
        """Σ|a - b| / (Σ|a| + Σ|b|), in [0, 1]."""
        return np.minimum(_divide(self.sums[DIFFERENCE], self._size), 1.0)

    def sign_change_ratio(self, positions: int | None = None) -> Doubles:
        """#{sign(a) ≠ sign(b)} over the pair's positions, or over ``positions``, in [0, 1]."""
        return _divide(self.sums[SIGN_CHANGES], self._among(positions))

    def conflicting_magnitude_ratio(self) -> Doubles:
        """Σ|a - b| where the signs differ, over Σ|a| + Σ|b|, in [0, 1]."""
        return np.minimum(_divide(self.sums[CONFLICTING], self._size), 1.0)

    def cosine(self) -> Doubles:
        """⟨a, b⟩ / (‖a‖‖b‖), in [-1, 1]."""
        return np.clip(_divide(self.sums[DOT], self._norms), -1.0, 1.0)

    def gradient_of(self, ratio: str, positions: int | None = None) -> Doubles:
        """The derivative of one of the ratios by the sums, [8, experts, experts]; 0 where it is
        undefined."""
        gradient = np.zeros_like(self.sums)
        if ratio == "cosine":
            cosine = self.cosine()
            gradient[DOT] = _divide(1.0, self._norms)
            gradient[SQUARE_A] = -_divide(cosine, 2 * self.sums[SQUARE_A])
            gradient[SQUARE_B] = -_divide(cosine, 2 * self.sums[SQUARE_B])
        elif ratio == "sign_change_ratio":
            gradient[SIGN_CHANGES] = _divide(1.0, self._among(positions))
        else:
            above = {"magnitude_change_ratio": DIFFERENCE}.get(ratio, CONFLICTING)
            gradient[above] = _divide(1.0, self._size)
            gradient[SIZE_A] = gradient[SIZE_B] = -_divide(self.sums[above], self._size**2)
        return np.nan_to_num(gradient, nan=0.0)

    def _among(self, positions: int | None) -> Doubles:
        """What sign changes are divided by; 0 where both task vectors are zero."""
        all_of_them = self.positions if positions is None else float(positions)
        return np.where(self._size > 0, all_of_them, 0.0)

    @property
    def _size(self) -> Doubles:
        size: Doubles = self.sums[SIZE_A] + self.sums[SIZE_B]
        return size

    @property
    def _norms(self) -> Doubles:
        norms: Doubles = np.sqrt(self.sums[SQUARE_A]) * np.sqrt(self.sums[SQUARE_B])
        return norms


def stratified_sum(samples: Doubles, sizes: NDArray[np.int64]) -> tuple[Doubles, Doubles]:
    """Totals over a population from two members of each of its strata, and their covariances.

    Args:
        samples: [strata, 2, quantities, ...], two different members of every stratum.
        sizes: [strata], how many members each stratum has, at least 2.

    Returns:
        The estimated totals, [quantities, ...], and the estimated covariances of these estimates,
        [quantities, quantities, ...] (Cochran, Sampling Techniques, section 5A.12).
    """
    members = np.asarray(sizes, dtype=np.float64)
    totals = np.tensordot(members / 2, samples.sum(axis=1), axes=1)
    weights = np.sqrt(members * (members - 2) / 4)
    apart = samples[:, 0] - samples[:, 1]
    apart *= weights.reshape(-1, *[1] * (apart.ndim - 1))
    return totals, np.einsum("hq...,hp...->qp...", apart, apart)


def propagated_error(gradient: Doubles, covariances: Doubles) -> Doubles:
    """Standard error of a function of uncertain sums, to first order: √(gᵀCg).

    ``gradient`` is [quantities, ...], ``covariances`` [quantities, quantities, ...].
    """
    variance = np.einsum("q...,qp...,p...->...", gradient, covariances, gradient)
    error: Doubles = np.sqrt(np.maximum(variance, 0.0))
    return error


def _divide(above: Doubles | float, below: Doubles | float) -> Doubles:
    """NaN where there is nothing to divide by."""
    above, below = np.broadcast_arrays(above, below)
    quotient = np.full(below.shape, np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient
