import math

import numpy as np
import pytest
from hypothesis import given

from pytest_mergegate.metrics import (
    ConflictSums,
    Undefined,
    conflicting_magnitude_ratio,
    cosine,
    magnitude_change_ratio,
    mean_cosine,
    parameter_conflicts,
    sign_change_ratio,
)

from .strategies import generators, quick


def naive(a, b):
    """All five metrics of flat lists, position by position."""

    def sign(x):
        return (x > 0) - (x < 0)

    total = sum(abs(x) + abs(y) for x, y in zip(a, b, strict=True))
    differing = [(x, y) for x, y in zip(a, b, strict=True) if sign(x) != sign(y)]
    return (
        sum(abs(x - y) for x, y in zip(a, b, strict=True)) / total,
        len(differing) / len(a),
        sum(abs(x - y) for x, y in differing) / total,
        naive_cosine(a, b),
    )


def naive_cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def task_vectors(rng):
    """Three tensors each, with zeros in both."""
    shapes = [(4, 3), (5,), (2, 2, 2)]
    pair = []
    for _ in range(2):
        tensors = [rng.normal(size=shape) * (rng.random(shape) < 0.7) for shape in shapes]
        for tensor in tensors:
            tensor.flat[0] = rng.normal()
        pair.append(tensors)
    return pair


def flat(tensors):
    return [float(x) for tensor in tensors for x in tensor.ravel()]


@given(generators)
@quick
def test_against_position_by_position(rng):
    a, b = task_vectors(rng)
    result = parameter_conflicts(a, b)
    magnitude, signs, conflicting, direction = naive(flat(a), flat(b))
    assert result.magnitude_change_ratio == pytest.approx(magnitude, rel=1e-12)
    assert result.sign_change_ratio == signs
    assert result.conflicting_magnitude_ratio == pytest.approx(conflicting, rel=1e-12)
    assert result.cosine == pytest.approx(direction, rel=1e-12, abs=1e-15)
    per_tensor = [naive_cosine(flat([x]), flat([y])) for x, y in zip(a, b, strict=True)]
    assert result.cosine_mean == pytest.approx(sum(per_tensor) / 3, rel=1e-12, abs=1e-15)
    assert result.conflicting_magnitude_ratio <= result.magnitude_change_ratio + 1e-15


@given(generators)
@quick
def test_is_symmetric_and_has_no_scale(rng):
    a, b = task_vectors(rng)
    scale = float(rng.uniform(1e-6, 1e6))
    result, swapped = parameter_conflicts(a, b), parameter_conflicts(b, a)
    scaled = parameter_conflicts([scale * x for x in a], [scale * x for x in b])
    for field in ("magnitude_change_ratio", "conflicting_magnitude_ratio", "cosine", "cosine_mean"):
        assert getattr(swapped, field) == pytest.approx(getattr(result, field), rel=1e-12)
        assert getattr(scaled, field) == pytest.approx(getattr(result, field), rel=1e-9)
    assert swapped.sign_change_ratio == scaled.sign_change_ratio == result.sign_change_ratio


@given(generators)
@quick
def test_sums_of_tiles_are_the_sums_of_the_whole(rng):
    a, b = rng.normal(size=(2, 40))
    cut = int(rng.integers(0, 41))
    tiles = ConflictSums.of(a[:cut], b[:cut]) + ConflictSums.of(a[cut:], b[cut:])
    whole = ConflictSums.of(a, b)
    assert (tiles.sign_changes, tiles.positions) == (whole.sign_changes, whole.positions)
    for ratio in (magnitude_change_ratio, conflicting_magnitude_ratio, cosine):
        assert ratio(tiles) == pytest.approx(ratio(whole), rel=1e-12)


def test_half_precision_is_summed_in_double():
    a = np.full(100_000, 0.1, dtype=np.float16)
    sums = ConflictSums.of(a, a)
    assert sums.absolute_a == pytest.approx(float(np.float16(0.1)) * 100_000, rel=1e-12)


def test_equal_and_opposite():
    a = [np.array([1.0, -2.0, 3.0])]
    same, opposite = parameter_conflicts(a, a), parameter_conflicts(a, [-a[0]])
    assert same.magnitude_change_ratio == same.sign_change_ratio == 0
    assert same.conflicting_magnitude_ratio == 0
    assert same.cosine == same.cosine_mean == 1
    assert opposite.magnitude_change_ratio == opposite.sign_change_ratio == 1
    assert opposite.conflicting_magnitude_ratio == 1
    assert opposite.cosine == opposite.cosine_mean == -1


def test_a_zero_facing_a_non_zero_is_a_sign_change():
    sums = ConflictSums.of([0.0, 0.0, 1.0, 2.0], [0.0, -1.0, 0.0, 2.0])
    assert sums.sign_changes == 2
    assert sign_change_ratio(sums) == 0.5
    assert conflicting_magnitude_ratio(sums) == pytest.approx(2 / 6)


def test_sign_changes_over_all_parameters_of_the_base():
    sums = ConflictSums.of([1.0, 1.0], [1.0, -1.0])
    assert sign_change_ratio(sums, positions=10) == 0.1
    with pytest.raises(ValueError, match="positions"):
        sign_change_ratio(sums, positions=1)


@given(generators)
@quick
def test_cosine_is_clipped(rng):
    a = rng.normal(size=30)
    assert abs(cosine(ConflictSums.of(a, rng.uniform(0.1, 9) * a))) <= 1
    assert cosine(ConflictSums(dot=1.0000001, squared_a=1.0, squared_b=1.0)) == 1.0
    assert cosine(ConflictSums(dot=-1.0000001, squared_a=1.0, squared_b=1.0)) == -1.0


def test_cosines_per_tensor_leave_out_tensors_of_one_expert():
    shared = ConflictSums.of([1.0, 0.0], [1.0, 1.0])
    lone = ConflictSums.of([1.0, 0.0], [0.0, 0.0])
    assert mean_cosine([shared, lone]) == pytest.approx(math.sqrt(0.5))
    with pytest.raises(Undefined) as caught:
        mean_cosine([lone, lone])
    assert caught.value.reason == "no_shared_tensors"


def test_experts_on_different_tensors():
    zero, one = np.zeros(3), np.ones(3)
    result = parameter_conflicts([one, zero], [zero, one])
    assert result.magnitude_change_ratio == result.sign_change_ratio == 1
    assert result.cosine == 0
    assert result.cosine_reason is None
    assert result.cosine_mean is None
    assert result.cosine_mean_reason == "no_shared_tensors"


def test_one_expert_that_changes_nothing():
    result = parameter_conflicts([np.ones(3)], [np.zeros(3)])
    assert result.magnitude_change_ratio == result.conflicting_magnitude_ratio == 1
    assert (result.cosine, result.cosine_reason) == (None, "zero_task_vectors")


@pytest.mark.parametrize(
    "metric",
    [magnitude_change_ratio, sign_change_ratio, conflicting_magnitude_ratio, cosine],
)
@pytest.mark.parametrize("size", [0, 4])
def test_two_zero_task_vectors_have_no_conflict_ratio(metric, size):
    with pytest.raises(Undefined) as caught:
        metric(ConflictSums.of(np.zeros(size), np.zeros(size)))
    assert caught.value.reason == "zero_task_vectors"
    with pytest.raises(Undefined):
        parameter_conflicts([np.zeros(size)], [np.zeros(size)])


def test_refuses_bad_input():
    with pytest.raises(ValueError, match="one shape"):
        ConflictSums.of([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="NaN"):
        ConflictSums.of([math.nan], [1.0])
    with pytest.raises(ValueError, match="same tensors"):
        parameter_conflicts([np.ones(1)], [])
    with pytest.raises(ValueError, match="absolute_a"):
        ConflictSums(absolute_a=-1.0)
    with pytest.raises(ValueError, match="squared_b must be finite"):
        ConflictSums(squared_b=math.inf)
    with pytest.raises(ValueError, match="sign changes"):
        ConflictSums(sign_changes=2, positions=1)
    with pytest.raises(TypeError):
        ConflictSums() + 1
