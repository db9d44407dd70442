from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.metrics import (
    ConflictSums,
    Undefined,
    conflicting_magnitude_ratio,
    cosine,
    magnitude_change_ratio,
    parameter_conflicts,
    sign_change_ratio,
)
from pytest_mergegate.metrics.pairwise import (
    CONFLICTING,
    DIFFERENCE,
    DOT,
    QUANTITIES,
    SIGN_CHANGES,
    SIZE_A,
    SIZE_B,
    SQUARE_A,
    SQUARE_B,
    PairwiseConflicts,
    propagated_error,
    stratified_sum,
)

from .strategies import generators, quick

RATIOS = {
    "magnitude_change_ratio": magnitude_change_ratio,
    "sign_change_ratio": sign_change_ratio,
    "conflicting_magnitude_ratio": conflicting_magnitude_ratio,
    "cosine": cosine,
}
FIELDS = {
    DIFFERENCE: "absolute_difference",
    CONFLICTING: "conflicting",
    SIGN_CHANGES: "sign_changes",
    DOT: "dot",
    SIZE_A: "absolute_a",
    SIZE_B: "absolute_b",
    SQUARE_A: "squared_a",
    SQUARE_B: "squared_b",
}


class Pool:
    """Random task vectors, some of them zero, of experts that leave some tensors alone."""

    def __init__(self, rng, experts):
        self.sizes = rng.integers(1, 30, size=rng.integers(1, 6))
        self.changed = rng.random((len(self.sizes), experts)) < rng.uniform(0.2, 1)
        self.deltas = []
        for size, changed in zip(self.sizes, self.changed, strict=True):
            drawn = rng.normal(size=(experts, size)) * (rng.random((experts, size)) < 0.7)
            drawn[rng.random(experts) < 0.2] = 0
            self.deltas.append(drawn * changed[:, np.newaxis])

    def triangles(self):
        """As the engine adds them up: zeros where an expert leaves a tensor alone."""
        return np.stack([self._triangles(*tensor) for tensor in self._tensors()], axis=1)

    def _triangles(self, deltas, changed):
        experts = len(deltas)
        found = np.full((4, experts, experts), np.nan)  # nobody writes the lower triangle
        for i, j in np.argwhere(np.triu(np.ones((experts, experts)))):
            a, b = deltas[i], deltas[j] if i != j else np.zeros_like(deltas[i])
            apart, differs = np.abs(a - b), np.sign(a) != np.sign(b)
            sums = (apart.sum(), apart[differs].sum(), differs.sum(), (a * deltas[j]).sum())
            found[:, i, j] = np.array(sums) * (changed[i] and changed[j])
        return found

    def _tensors(self):
        return zip(self.deltas, self.changed, strict=True)

    def pairwise(self):
        return PairwiseConflicts.of_tensors(self.triangles(), self.changed, self.sizes)

    def pair(self, i, j):
        """The tensors that one of the two may change."""
        return [(d[i], d[j]) for d, changed in self._tensors() if changed[i] or changed[j]]


def or_nan(compute, *arguments, **settings):
    try:
        return compute(*arguments, **settings)
    except Undefined:
        return np.nan


def pools(least=2):
    return st.builds(Pool, generators, st.integers(least, 16))


@given(pools())
@quick
def test_every_pair_is_what_it_is_by_itself(pool):
    total = pool.pairwise().total()
    found = {name: getattr(total, name)() for name in RATIOS}
    of_base = total.sign_change_ratio(10_000)
    for i, j in product(range(pool.changed.shape[1]), repeat=2):
        if i == j:
            continue
        tensors = pool.pair(i, j)
        sums = sum((ConflictSums.of(a, b) for a, b in tensors), ConflictSums())
        try:
            expected = parameter_conflicts([a for a, _ in tensors], [b for _, b in tensors])
        except Undefined:
            assert all(np.isnan(ratio[i, j]) for ratio in found.values())
            assert np.isnan(of_base[i, j])
            continue
        for name, ratio in found.items():
            number = getattr(expected, name)
            assert ratio[i, j] == pytest.approx(
                np.nan if number is None else number, rel=1e-12, abs=1e-15, nan_ok=True
            ), name
        assert total.positions[i, j] == sums.positions
        assert of_base[i, j] == sign_change_ratio(sums, positions=10_000)


@given(pools())
@quick
def test_every_pair_in_every_tensor(pool):
    pairwise = pool.pairwise()
    found = {name: getattr(pairwise, name)() for name in RATIOS}
    for k, (deltas, changed) in enumerate(zip(pool.deltas, pool.changed, strict=True)):
        for i, j in product(range(len(deltas)), repeat=2):
            if i == j:
                continue
            empty = not changed[i] and not changed[j]
            sums = ConflictSums() if empty else ConflictSums.of(deltas[i], deltas[j])
            for which, field in FIELDS.items():
                known = pytest.approx(getattr(sums, field), rel=1e-12, abs=1e-15)
                assert pairwise.sums[which, k, i, j] == known, field
            assert pairwise.positions[k, i, j] == sums.positions
            for name, of_pair in RATIOS.items():
                assert found[name][k, i, j] == pytest.approx(
                    or_nan(of_pair, sums), rel=1e-12, abs=1e-15, nan_ok=True
                ), name


@given(pools(), generators)
@quick
def test_totals_of_some_tensors(pool, rng):
    members = rng.random(len(pool.sizes)) < 0.5
    found = pool.pairwise().total(members)
    experts = pool.changed.shape[1]
    positions = np.zeros((experts, experts))
    for size, changed in zip(pool.sizes[members], pool.changed[members], strict=True):
        positions += size * (changed[:, np.newaxis] | changed)
    np.testing.assert_array_equal(found.positions, positions)
    np.testing.assert_allclose(found.sums, pool.pairwise().sums[:, members].sum(axis=1), rtol=1e-12)


@given(pools())
@quick
def test_pairs_have_no_order(pool):
    total = pool.pairwise().total()
    for name in RATIOS:
        ratio = getattr(total, name)()
        np.testing.assert_array_equal(ratio, ratio.T)


# Errors of estimates


@given(pools(), st.sampled_from([*RATIOS, "sign_change_ratio of the base"]))
@quick
def test_gradients(pool, ratio):
    total = pool.pairwise().total()
    name, _, of_base = ratio.partition(" ")
    arguments = (10_000,) if of_base else ()
    found = total.gradient_of(name, *arguments)
    value = getattr(total, name)(*arguments)
    # where a ratio is at its end, it is held there; a pair with itself is no pair
    inside = np.isfinite(value) & (np.abs(value) < 0.999) & ~np.eye(len(value), dtype=bool)
    for k in range(QUANTITIES):
        step = 1e-6 * np.maximum(np.abs(total.sums[k]), 1e-3)
        ends = []
        for sign in (1, -1):
            moved = total.sums.copy()
            moved[k] += sign * step
            there = PairwiseConflicts(sums=moved, positions=total.positions)
            with np.errstate(invalid="ignore"):  # a zero moved below zero
                ends.append(getattr(there, name)(*arguments))
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(found[k, inside], slope[inside], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", RATIOS)
def test_the_gradient_of_what_is_undefined_is_zero(name):
    sums, positions = np.zeros((QUANTITIES, 2, 2)), np.full((2, 2), 12.0)
    pairwise = PairwiseConflicts(sums=sums, positions=positions)
    assert np.isnan(getattr(pairwise, name)()).all()
    assert not pairwise.gradient_of(name).any()


def all_samples(population):
    """Every draw of two different members of every stratum, [draws, strata, 2, quantities]."""
    pairs = [
        [(x, y) for i, x in enumerate(stratum) for j, y in enumerate(stratum) if i != j]
        for stratum in population
    ]
    return np.array(list(product(*pairs)))


def strata(rng):
    """Three strata of 2 to 5 members with two quantities each."""
    return [rng.normal(size=(size, 2)) * rng.uniform(0.1, 9) for size in rng.integers(2, 6, size=3)]


@given(generators)
@quick
def test_estimates_are_right_on_average(rng):
    population = strata(rng)
    sizes = np.array([len(stratum) for stratum in population])
    found = [stratified_sum(sample, sizes) for sample in all_samples(population)]
    totals = np.array([total for total, _ in found])
    covariances = np.array([covariance for _, covariance in found])
    np.testing.assert_allclose(
        totals.mean(axis=0), np.concatenate(population).sum(axis=0), rtol=1e-9, atol=1e-9
    )
    # over all draws there are, not merely some of them
    true = np.cov(totals, rowvar=False, bias=True)
    np.testing.assert_allclose(covariances.mean(axis=0), true, rtol=1e-9, atol=1e-9)


@given(generators)
@quick
def test_estimates_of_many_pairs_at_once(rng):
    sizes = rng.integers(2, 9, size=5)
    samples = rng.normal(size=(5, 2, QUANTITIES, 3, 3))
    given_samples = samples.copy()
    totals, covariances = stratified_sum(given_samples, sizes)
    np.testing.assert_array_equal(given_samples, samples)
    for i, j in np.ndindex(3, 3):
        total, covariance = stratified_sum(samples[..., i, j].copy(), sizes)
        np.testing.assert_allclose(totals[:, i, j], total, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(covariances[:, :, i, j], covariance, rtol=1e-12, atol=1e-12)


def test_strata_drawn_whole_leave_nothing_uncertain(seed):
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(7, 2, 3))
    totals, covariances = stratified_sum(samples, np.full(7, 2))
    np.testing.assert_allclose(totals, samples.sum(axis=(0, 1)), rtol=1e-12)
    assert not covariances.any()


@given(generators)
@quick
def test_errors_of_functions_of_sums(rng):
    quantities = int(rng.integers(1, QUANTITIES + 1))
    gradient = rng.normal(size=(quantities, 3, 3))
    roots = rng.normal(size=(quantities, quantities, 3, 3))
    covariances = np.einsum("qk...,pk...->qp...", roots, roots)
    found = propagated_error(gradient, covariances)
    for i, j in np.ndindex(3, 3):
        g, c = gradient[:, i, j], covariances[:, :, i, j]
        assert found[i, j] == pytest.approx(np.sqrt(g @ c @ g), rel=1e-9)


def test_an_error_is_no_nan_where_rounding_leaves_a_variance_below_zero():
    gradient = np.array([1.0, -1.0])
    covariances = np.array([[1.0, 1.0 + 1e-15], [1.0 + 1e-15, 1.0]])
    assert propagated_error(gradient, covariances) == 0.0


@given(generators)
@quick
def test_the_first_order_error_of_a_ratio(rng):
    """A ratio of totals, whose error follows the draws' own spread where samples are large."""
    size, strata_count = 6, 200
    x = rng.uniform(1, 2, size=(strata_count, size))
    population = np.stack([x * rng.uniform(0.5, 1, size=x.shape), x], axis=-1)
    sizes = np.full(strata_count, size)
    estimates, errors = [], []
    for _ in range(300):
        rows = np.argsort(rng.random((strata_count, size)), axis=1)[:, :2]
        sample = np.take_along_axis(population, rows[..., np.newaxis], axis=1)
        totals, covariances = stratified_sum(sample, sizes)
        gradient = np.array([1 / totals[1], -totals[0] / totals[1] ** 2])
        estimates.append(totals[0] / totals[1])
        errors.append(propagated_error(gradient, covariances))
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.25)
