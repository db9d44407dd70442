"""The compiled loops against plain numpy in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mergegate.engine.weights import tensor_sums
from pytest_mergegate.engine.weights.delta_rows import FactorRows
from pytest_mergegate.engine.weights.kernels import (
    CONFLICTING,
    DIFFERENCE,
    DOT,
    SIGN_CHANGES,
    add_pairs,
    multiply,
    subtract,
)
from pytest_mergegate.engine.weights.tensor_sums import factor_dots

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SPAN = 512
SIZES = (1, 2, 7, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN - 1, 2 * SPAN, 2 * SPAN + 1, 3 * SPAN + 5)
UNIT = 2.0**-53
"""Of rounding in float64."""
LOWER = -7.25

quick = settings(max_examples=60, deadline=None, database=None)
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


# Products


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    for rows, rank, columns in np.ndindex(9, 9, 6):
        left = rng.normal(size=(rows + 1, rank + 1))
        right = rng.normal(
            size=(rank + 1, (1, 3, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN + 2)[columns])
        ).astype(dtype)
        scale = float(rng.normal())
        out = np.full((rows + 1, right.shape[1]), np.nan)
        multiply(left, right, scale, out)
        # each number is as near as any order of summation brings it
        size = abs(scale) * (np.abs(left) @ np.abs(right.astype(np.float64)))
        error = np.abs(out - scale * (left @ right.astype(np.float64)))
        assert (error <= 2 * (rank + 3) * UNIT * size).all(), (rows + 1, rank + 1, columns)


@pytest.mark.parametrize("scale", [0.1, -3.0, 1e-30])
def test_what_cancels_out_in_a_product_is_zero_whatever_the_scale(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    column = rng.normal(size=(7, 1)).astype(np.float32)
    left = np.concatenate([column, -column], axis=1).astype(np.float64)
    right = np.tile(rng.normal(size=SPAN + 3).astype(np.float32), (2, 1))
    out = np.full((7, SPAN + 3), np.nan)
    multiply(left, right, scale, out)
    assert not out.any()


def test_a_product_of_tiny_float32_does_not_vanish() -> None:
    right = np.full((1, 3), 1e-45, dtype=np.float32)
    out = np.empty((5, 3))
    multiply(np.full((5, 1), float(right[0, 0])), right, 1.0, out)
    assert (out == float(right[0, 0]) ** 2).all()
    assert (out > 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rank", [1, 4, 6])
def test_what_is_not_finite_stays_in_its_row_and_column(seed: int, rank: int, bad: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (7, SPAN + 9)
    row, column, k = (int(rng.integers(size)) for size in (*shape, rank))
    left, right = rng.normal(size=(shape[0], rank)), rng.normal(size=(rank, shape[1]))
    for where in ("left", "right"):
        a, b = left.copy(), right.astype(np.float32)
        (a if where == "left" else b)[(row, k) if where == "left" else (k, column)] = bad
        out = np.empty(shape)
        multiply(a, b, 0.5, out)
        expected = np.zeros(shape, dtype=bool)
        expected[(row, slice(None)) if where == "left" else (slice(None), column)] = True
        np.testing.assert_array_equal(~np.isfinite(out), expected)


@given(generators)
@quick
def test_differences(rng: np.random.Generator) -> None:
    own, base = numbers(rng, (2, int(rng.choice(SIZES))))
    for first in (np.float32, np.float64):
        for second in (np.float32, np.float64):
            with np.errstate(over="ignore"):
                a, b = own.astype(first), base.astype(second)
            out = np.full(len(own), np.nan)
            subtract(a, b, out)
            np.testing.assert_array_equal(out, a.astype(np.float64) - b.astype(np.float64))


# Pairs


def naive_pairs(deltas: Array) -> Array:
    """What ``add_pairs`` adds, pair by pair."""
    sums = untouched(len(deltas))
    for i, a in enumerate(deltas):
        for j, b in enumerate(deltas[i:], start=i):
            other = np.zeros_like(a) if i == j else b
            apart, changed = np.abs(a - other), np.sign(a) != np.sign(other)
            sums[DIFFERENCE, i, j] = apart.sum()
            sums[CONFLICTING, i, j] = apart[changed].sum()
            sums[SIGN_CHANGES, i, j] = np.count_nonzero(changed)
            sums[DOT, i, j] = (a * b).sum()
    return sums


def untouched(experts: int) -> Array:
    """Zeros to add to, and what nobody must change below the diagonal."""
    return np.zeros((4, experts, experts)) + np.tri(experts, k=-1) * LOWER


def numbers(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Of all sizes, with zeros of both signs, shared zeros, equal numbers and denormals."""
    drawn = rng.normal(size=shape) * 10.0 ** rng.integers(-4, 5, size=shape)
    drawn[:, rng.random(shape[1]) < 0.1] = 0.0
    same = rng.random(shape[1]) < 0.1
    drawn[:, same] = drawn[:1, same]
    for share, value in ((0.3, 0.0), (0.1, -0.0), (0.1, 1e-42), (0.1, -3e-320)):
        drawn[rng.random(shape) < share * rng.random()] = value
    return drawn


def check_pairs(found: Array, deltas: Array) -> None:
    expected = naive_pairs(deltas)
    np.testing.assert_array_equal(found[SIGN_CHANGES], expected[SIGN_CHANGES])
    for which in (DIFFERENCE, CONFLICTING):  # of numbers that are not negative: nothing cancels
        np.testing.assert_allclose(found[which], expected[which], rtol=1e-13, atol=0)
    sizes = np.abs(deltas) @ np.abs(deltas).T
    upper = np.triu(np.ones_like(sizes, dtype=bool))
    assert (np.abs(found[DOT] - expected[DOT])[upper] <= 1e-13 * sizes[upper]).all()
    assert (found[:, ~upper] == LOWER).all()


@given(generators, st.integers(1, 16), st.sampled_from(SIZES), st.booleans())
@quick
def test_pairs(rng: np.random.Generator, experts: int, elements: int, sliced: bool) -> None:
    deltas = numbers(rng, (experts, elements))
    given_deltas = np.pad(deltas, ((0, 0), (0, 9)), constant_values=np.nan)[:, :elements]
    sums, without = untouched(experts), untouched(experts)
    # the rows of a tile that is not full do not lie side by side
    add_pairs(given_deltas if sliced else deltas, sums, True)
    check_pairs(sums, deltas)
    add_pairs(given_deltas if sliced else deltas, without, False)
    np.testing.assert_array_equal(without[:DOT], sums[:DOT])
    norms_alone = untouched(experts)[DOT]
    np.fill_diagonal(norms_alone, sums[DOT].diagonal())
    np.testing.assert_array_equal(without[DOT], norms_alone)


@given(generators)
@quick
def test_pairs_add_to_what_is_there(rng: np.random.Generator) -> None:
    deltas = numbers(rng, (3, 3 * SPAN))
    cut = int(rng.integers(1, 3 * SPAN))
    sums = untouched(3)
    add_pairs(deltas[:, :cut].copy(), sums, True)
    add_pairs(deltas[:, cut:].copy(), sums, True)
    check_pairs(sums, deltas)


@given(generators, st.integers(2, 16), st.sampled_from(SIZES))
@quick
def test_signs_of_numbers_whose_products_vanish(
    rng: np.random.Generator, experts: int, elements: int
) -> None:
    tiny = (5e-324, -5e-324, 1e-310, -1e-310, 1e-200, -1e-200, 0.0, -0.0)
    deltas = rng.choice(tiny, size=(experts, elements))
    sums = untouched(experts)
    add_pairs(deltas, sums, True)
    expected = naive_pairs(deltas)
    np.testing.assert_array_equal(sums[SIGN_CHANGES], expected[SIGN_CHANGES])
    for which in (DIFFERENCE, CONFLICTING):
        # sums of denormals are exact, all others have a relative error
        np.testing.assert_allclose(sums[which], expected[which], rtol=1e-13, atol=0)


@given(
    generators,
    st.integers(1, 16),
    st.sampled_from(SIZES),
    st.sampled_from([np.nan, np.inf]),
    st.booleans(),
)
@quick
def test_what_is_not_finite_shows_on_its_expert_alone(
    rng: np.random.Generator, experts: int, elements: int, bad: float, with_dots: bool
) -> None:
    deltas = numbers(rng, (experts, elements))
    spoiled = rng.random(experts) < 0.3
    spoiled[rng.integers(experts)] = True
    where = int(rng.integers(elements))  # the same for all: infinity meets infinity
    deltas[spoiled, where] = bad * rng.choice([-1.0, 1.0], size=int(spoiled.sum()))
    sums = untouched(experts)
    add_pairs(deltas, sums, with_dots)
    check_spoiled(sums, deltas, spoiled, with_dots)


def check_spoiled(sums: Array, deltas: Array, spoiled: Array, with_dots: bool) -> None:
    found = sums if with_dots else sums[:DOT]
    upper = np.triu(np.ones(sums.shape[1:], dtype=bool))
    touched = (spoiled[:, np.newaxis] | spoiled) & upper
    assert not np.isfinite(found[DIFFERENCE, touched]).any()
    own = np.diagonal(found, axis1=1, axis2=2)
    assert not np.isfinite(own[DIFFERENCE, spoiled]).any()
    assert not with_dots or not np.isfinite(own[DOT, spoiled]).any()
    if not spoiled.all():
        sound = np.ix_(range(4), ~spoiled, ~spoiled)
        rest = untouched(int((~spoiled).sum()))
        add_pairs(deltas[~spoiled], rest, with_dots)
        np.testing.assert_allclose(sums[sound], rest, rtol=1e-12)


# Inner products of factors


@given(generators, st.lists(st.integers(1, 60), min_size=1, max_size=16), st.booleans())
@quick
def test_dots_of_factors(rng: np.random.Generator, ranks: list[int], in_blocks: bool) -> None:
    check_dots(rng, ranks, 97 if in_blocks else None)


@pytest.mark.parametrize(
    "ranks", [[64, 64], [64, 64, 1], [127, 2], [128, 1], [1, 128], [129], [200, 3, 130, 1, 1]]
)
def test_dots_of_ranks_around_a_group(seed: int, ranks: list[int]) -> None:
    check_dots(np.random.default_rng(seed), ranks)


def check_dots(rng: np.random.Generator, ranks: list[int], block: int | None = None) -> None:
    rows, columns = (int(size) for size in rng.integers(1, 90, size=2))
    factors = [
        FactorRows(
            left=rng.normal(size=(rows, rank)).astype(rng.choice([np.float32, np.float64])),
            right=rng.normal(size=(rank, columns)).astype(rng.choice([np.float32, np.float64])),
            scale=float(rng.normal() * 10.0 ** rng.integers(-3, 4)),
        )
        for rank in ranks
    ]
    with pytest.MonkeyPatch.context() as patch:
        if block is not None:
            patch.setattr(tensor_sums, "_BLOCK", block)
        found = factor_dots(factors)
    deltas = np.stack([f.scale * (f.left.astype(np.float64) @ f.right).ravel() for f in factors])
    # as near as the factors' sizes allow
    sizes = np.array(
        [abs(f.scale) * np.linalg.norm(f.left) * np.linalg.norm(f.right) for f in factors]
    )
    error = np.abs(found - np.triu(deltas @ deltas.T))
    assert (error <= 1e-14 * np.outer(sizes, sizes)).all()
    assert not found[np.tri(len(ranks), k=-1, dtype=bool)].any()


def test_dots_of_factors_that_cancel_out_or_are_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(40, 3)), rng.normal(size=(3, 30))
    twice = FactorRows(
        left=np.concatenate([left, -left], axis=1), right=np.concatenate([right, right]), scale=2.0
    )
    zero = FactorRows(left=np.zeros((40, 2)), right=right[:2], scale=1.0)
    other = FactorRows(left=left, right=right, scale=1.0)
    found = factor_dots([twice, zero, other])
    assert not found[:2, :2].any()
    assert found[1, 2] == 0
    assert abs(found[0, 2]) <= 1e-14 * np.linalg.norm(left) ** 2 * np.linalg.norm(right) ** 2
    assert found[2, 2] == pytest.approx(np.linalg.norm(left @ right) ** 2, rel=1e-12)


@given(generators)
@quick
def test_no_square_is_negative(rng: np.random.Generator) -> None:
    """All but a rounding of float32 cancels out, which is less than the Gram's round-off."""
    one, other = rng.normal(size=(2, 40, 3)).astype(np.float32)
    right = np.tile(rng.normal(size=(3, 30)).astype(np.float32), (3, 1))
    left = np.concatenate([one, other, -(one + other)], axis=1)
    assert 0 <= factor_dots([FactorRows(left=left, right=right, scale=0.7)])[0, 0] < 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_dots_of_factors_that_are_not_finite(seed: int, bad: float) -> None:
    rng = np.random.default_rng(seed)
    factors = [
        FactorRows(left=rng.normal(size=(9, r)), right=rng.normal(size=(r, 8)), scale=0.3)
        for r in (100, 40, 3)
    ]
    factors[1].left[4, 7] = bad
    with np.errstate(invalid="ignore"):
        found = factor_dots(factors)
    assert not np.isfinite(found[1, 1])
    assert np.isfinite(found[[0, 0, 2], [0, 2, 2]]).all()
