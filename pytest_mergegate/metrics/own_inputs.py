"""What a linear merge does to an expert on its own inputs (end of THEORY section 5)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _scales
from ._checks import FloatArray
from ._scales import Exponents
from .distances import check_base_states, check_states


@dataclass(frozen=True, kw_only=True)
class OwnInputDistortion:
    """One expert's distortion on its own inputs, and the causes it splits into."""

    total: float
    """δ_i², the sum of the other three"""
    dilution: float
    """(1 - λ_i)² G_ii: the expert's own weight is not 1"""
    interference: float
    """λ₋ᵢᵀ G λ₋ᵢ: the shifts of the other experts"""
    cross: float
    """What the two add (or, negative, cancel) together"""


def own_input_distortion(gram: ArrayLike, weights: ArrayLike, expert: int) -> OwnInputDistortion:
    """Return δ_i² = (λ - e_i)ᵀ G (λ - e_i) and its parts (end of THEORY section 5).

    Args:
        gram: G of ``own_input_gram`` on the inputs of expert i, shape [N, N].
        weights: λ, shape [N], any real numbers.
        expert: i, in 0..N-1.

    Raises:
        ValueError: G is not a Gram matrix, lengths disagree, there is no such expert, or float64
            cannot hold a part.
    """
    matrix = check_gram(gram)
    scales = check_weights(weights, len(matrix))
    own = _checks.count("expert", expert)
    if own >= len(matrix):
        raise ValueError(f"expert must be below {len(matrix)}, got {own}")
    missing = 1 - float(scales[own])
    others = scales.copy()
    others[own] = 0.0
    # All near 1 while they are multiplied, whatever their units.
    unit = _scales.spare(matrix)
    own_size, size = _scales.exponent(missing), _scales.exponent(others)
    parts = _parts(
        np.ldexp(matrix, -unit), math.ldexp(missing, -own_size), np.ldexp(others, -size), own
    )
    exponents = unit + np.array([2 * own_size, 2 * size, own_size + size])
    total, common = _scales.total(parts.tolist(), exponents.tolist())
    dilution, interference, cross = _scales.rounded("the distortion", parts, exponents).tolist()
    return OwnInputDistortion(
        total=max(0.0, float(_scales.rounded("the distortion", total, common))),
        dilution=dilution,
        interference=interference,
        cross=cross,
    )


def _parts(matrix: FloatArray, missing: float, others: FloatArray, own: int) -> FloatArray:
    pull = matrix @ others
    dilution = missing**2 * float(matrix[own, own])
    interference = max(0.0, float(others @ pull))
    return np.array([dilution, interference, -2 * missing * float(pull[own]) + 0.0])


def own_input_gram(states: Sequence[ArrayLike], base_states: Sequence[ArrayLike]) -> FloatArray:
    """Return G_jk = E⟨S_j, S_k⟩ with the shifts S_j = h_j - h_0 (end of THEORY section 5).

    Args:
        states: One array [N, T, d] per probe of one task.
        base_states: One array [T, d] per probe.

    Returns:
        Array [N, N]: the mean over probes of the mean over positions.

    Raises:
        ValueError: Shapes disagree, a value is NaN or infinite, or float64 cannot hold one of G.
    """
    probes = check_states(states)
    bases = check_base_states(base_states, probes)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = _mean_gram(probe - base for probe, base in zip(probes, bases, strict=True))
    if _scales.trusted(np.diagonal(gram)).all():
        return gram
    # An expert that does not move, or sizes whose squares float64 loses.
    return _scaled_gram(probes, bases)


def _mean_gram(shifts: Iterable[FloatArray]) -> FloatArray:
    grams = [_gram(each.reshape(len(each), -1)) / each.shape[1] for each in shifts]
    gram: FloatArray = sum(grams[1:], grams[0]) / len(grams)
    return gram


def _gram(rows: FloatArray) -> FloatArray:
    gram: FloatArray = rows @ rows.T
    return gram


def _scaled_gram(probes: list[FloatArray], bases: list[FloatArray]) -> FloatArray:
    """Return the same of shifts that are scaled, every expert's by its own power of two."""
    both = list(zip(probes, bases, strict=True))
    sizes = np.max([_scales.sizes(*_scales.differences(*each)) for each in both], axis=0)
    gram = _mean_gram(_scaled(*_scales.differences(*each), sizes) for each in both)
    return _scales.restored("the Gram matrix of shifts", gram, sizes[:, np.newaxis] + sizes)


def _scaled(shifts: FloatArray, exponents: Exponents, sizes: Exponents) -> FloatArray:
    return np.asarray(np.ldexp(shifts, (exponents - sizes[:, np.newaxis])[..., np.newaxis]))


def check_weights(weights: ArrayLike, experts: int) -> FloatArray:
    """``weights`` as float64 [N]. Raises ValueError."""
    scales = _checks.array("weights", weights, ndim=1)
    if len(scales) != experts:
        raise ValueError(f"weights must have length {experts}, got {len(scales)}")
    return scales


def check_gram(gram: ArrayLike) -> FloatArray:
    """``gram`` as float64 [N, N]. Raises ValueError where it is no Gram matrix."""
    matrix = _checks.symmetric("gram", gram)
    scale = float(np.abs(matrix).max())
    if scale > 0:
        lowest = float(np.linalg.eigvalsh(matrix / scale)[0])
        if lowest < -_checks.EUCLIDEAN_TOLERANCE * len(matrix):
            raise ValueError("gram must be a Gram matrix of shifts: it has a negative eigenvalue")
    return matrix
