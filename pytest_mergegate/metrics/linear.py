"""Linear merges θ_0 + Σ λ_j τ_j on hidden states (THEORY sections 4 and 6).

Exact where hidden states are linear in the weights; how far they are from it is measured, by
``linearity_gap``, not assumed.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _scales
from ._checks import FloatArray
from ._scales import Exponents
from .distances import check_base_states, check_states
from .own_inputs import check_weights
from .undefined import Undefined


def mix_states(
    states: Sequence[ArrayLike], base_states: Sequence[ArrayLike], weights: ArrayLike
) -> list[FloatArray]:
    """Return the forecast ĥ = h_0 + Σ λ_j (h_j - h_0) for each probe (THEORY section 6).

    Args:
        states: One array [N, T, d] per probe.
        base_states: One array [T, d] per probe.
        weights: λ, the effective scale of every expert, shape [N], any real numbers.

    Returns:
        One array [T, d] per probe.

    Raises:
        ValueError: Shapes disagree, a value is NaN or infinite, or float64 cannot hold a forecast.
    """
    probes = check_states(states)
    bases = check_base_states(base_states, probes)
    scales = check_weights(weights, len(probes[0]))
    return [_mixed(probe, base, scales) for probe, base in zip(probes, bases, strict=True)]


def _mixed(probe: FloatArray, base: FloatArray, scales: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        mixed: FloatArray = base + np.tensordot(scales, probe - base, axes=1)
    held = np.isfinite(mixed)
    if held.all():
        return mixed
    # Sums on the way were too large; what they come to need not be.
    unit, size = _scales.exponent([*probe, base]) + 1, max(0, _scales.exponent(scales))
    states, start = np.ldexp(probe, -unit), np.ldexp(base, -unit)
    moved = np.ldexp(start, -size) + np.tensordot(np.ldexp(scales, -size), states - start, axes=1)
    sizes = unit + size + 0 * held
    sizes[held], moved[held] = 0, mixed[held]
    return _scales.restored("the forecast", moved, sizes)


def linearity_gap(merged_states: Sequence[ArrayLike], mixed: Sequence[ArrayLike]) -> float:
    """Return η, the root mean square distance of a merged model's states to their forecast.

    Args:
        merged_states: One array [T, d] per probe.
        mixed: The result of ``mix_states`` on the same probes.

    Raises:
        ValueError: Shapes disagree, a value is NaN or infinite, or float64 cannot hold η.
    """
    forecast = [_checks.array("mixed", probe, ndim=2) for probe in _checks.items("mixed", mixed)]
    pairs = [probe[np.newaxis] for probe in forecast]
    merged = check_base_states(merged_states, check_states(pairs))
    square, exponent = _mean_square(list(map(_scales.differences, merged, forecast)))
    return float(_scales.restored("the linearity gap", math.sqrt(square), exponent))


def mean_square_norm(states: Sequence[ArrayLike]) -> float:
    """Return E‖h‖²: the mean over probes of the mean over positions, for states [T, d].

    Raises:
        ValueError: No probes or positions, a value is NaN or infinite, or float64 cannot hold the
            mean.
    """
    probes = [_checks.array("states", probe, ndim=2) for probe in _checks.items("states", states)]
    if not probes or any(probe.size == 0 for probe in probes):
        raise ValueError("states must not be empty")
    square, exponent = _mean_square([(probe, np.zeros(len(probe), int)) for probe in probes])
    return float(_scales.restored("the mean square norm", square, 2 * exponent))


def _mean_square(rows: list[tuple[FloatArray, Exponents]]) -> tuple[float, int]:
    """Return the mean square norm of rows that have exponents, and half its own exponent."""
    with np.errstate(over="ignore"):
        square = _plain_mean_square([states for states, _ in rows])
    if _scales.trusted(square) and not any(exponents.any() for _, exponents in rows):
        return square, 0
    size = max(int(_scales.sizes(*each)) for each in rows)
    scaled = [np.ldexp(states, (each - size)[:, np.newaxis]) for states, each in rows]
    return _plain_mean_square(scaled), size


def _plain_mean_square(probes: list[FloatArray]) -> float:
    return float(np.mean([np.mean(np.sum(probe * probe, axis=1)) for probe in probes]))


def relative_size(mean_square: float, reference_mean_square: float) -> float:
    """Return √(E‖a‖² / E‖b‖²), comparable across pools (THEORY section 4).

    δ_i² over E‖h_i‖² gives the relative distortion ρ_i; E‖h_i - h_0‖² over E‖h_0‖² the shift
    size s_i; Δ² over E‖h_0‖² the relative diameter.

    Raises:
        Undefined: ``zero_hidden_states``, the reference is 0.
        ValueError: An argument is negative, NaN or infinite, or float64 cannot hold the ratio.
    """
    square = _checks.at_least_zero("mean_square", mean_square)
    reference = _checks.at_least_zero("reference_mean_square", reference_mean_square)
    if reference == 0:
        raise Undefined("zero_hidden_states", "the states to compare with are all zero")
    ratio = square / reference
    if _scales.trusted(ratio):
        return math.sqrt(ratio)
    # √(a·4^k / b) is √(a / b)·2^k: the two are brought near each other
    (above, up), (below, down) = math.frexp(square), math.frexp(reference)
    half, odd = divmod(up - down, 2)
    return float(_scales.restored("the relative size", math.sqrt(above * 2**odd / below), half))


def effective_scale(merged: ArrayLike, summed: ArrayLike) -> float:
    """Return the λ that minimises ‖merged - λ·summed‖ (THEORY section 6).

    Args:
        merged: A merged task vector (or a sample of its tensors), any shape.
        summed: Σ τ_j at the same positions.

    Raises:
        Undefined: ``zero_task_vectors``, the sum is zero.
        ValueError: Shapes disagree, a value is NaN or infinite, or float64 cannot hold λ.
    """
    result, total = _checks.array("merged", merged), _checks.array("summed", summed)
    if result.shape != total.shape:
        raise ValueError(
            f"merged and summed must have one shape, got {result.shape} and {total.shape}"
        )
    if not total.any():
        raise Undefined("zero_task_vectors", "the task vectors sum to zero")
    with np.errstate(over="ignore", invalid="ignore"):
        dot, square = float(np.sum(result * total)), float(np.sum(total * total))
    if _scales.trusted(square) and _scales.trusted(abs(dot)):
        return _scales.quotient("the effective scale", dot, square)
    # No overlap at all, or products that float64 loses.
    own, other = _scales.exponent(result), _scales.exponent(total)
    result, total = np.ldexp(result, -own), np.ldexp(total, -other)
    dot, square = float(np.sum(result * total)), float(np.sum(total * total))
    return _scales.quotient("the effective scale", dot, square, own - other)
