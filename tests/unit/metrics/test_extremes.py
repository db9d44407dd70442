"""Numbers at the ends of float64, and arguments that are no numbers, for every public function."""

import inspect
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

from pytest_mergegate import metrics
from pytest_mergegate.metrics import Undefined

from .extreme_cases import BAD, CASES, numbers
from .strategies import generators, quick

SCALED = [(name, k) for name, cases in CASES.items() for k, c in enumerate(cases) if c.units]
# The unit, and the even power of two that brings what has it back to ordinary numbers.
UNITS = [(1e200, 664), (1e-200, -664), (1e300, 996), (1e-300, -996), (1e-308, -1024)]
UNITS += [(2.0**1020, 1020), (5e-324 * 2**20, -1054), (5e-324, -1074)]
# What float32 holds, and more, is right; beyond an error may say that float64 loses the squares.
UNITS += [(2.0**126, 126), (2.0**-126, -126)]
HELD = 126
LEAST = Fraction(5e-324)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def public():
    for name, item in vars(metrics).items():
        if inspect.isfunction(item) or name == "ConflictSums":
            yield name


def outcome(call, **arguments):
    """The result, or the reason why there is none."""
    try:
        return call(**arguments)
    except Undefined as undefined:
        return undefined.reason
    except ValueError as error:
        return error


def scaled(value, factor):
    with np.errstate(all="ignore"):
        if isinstance(value, float):
            return float(np.float64(value) * factor)
        return (
            np.asarray(value) * factor
            if isinstance(value, np.ndarray)
            else [v * factor for v in value]
        )


def shifted(value, exponent):
    if isinstance(value, list):
        return [np.ldexp(each, exponent) for each in value]
    return (
        float(np.ldexp(value, exponent)) if isinstance(value, float) else np.ldexp(value, exponent)
    )


def test_every_public_function_has_a_case():
    assert sorted(CASES) == sorted(public())


@pytest.mark.parametrize("name", CASES)
def test_a_bad_argument_is_a_value_error(name, seed):
    case = CASES[name][0]
    call = case.call or getattr(metrics, name)
    good = case.make(np.random.default_rng(seed))
    call(**good)
    known = inspect.signature(call).parameters
    for argument in (set(known) | set(good)) - {"seed"}:
        default_is_none = argument in known and known[argument].default is None
        for k, bad in enumerate(BAD):
            if k in case.takes.get(argument, ()) or (bad is None and default_is_none):
                continue
            with pytest.raises(ValueError) as caught:  # noqa: PT011 - each in its own words
                call(**good | {argument: bad})
            assert str(caught.value), (argument, bad)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: f"{unit[0]:.0e}")
@pytest.mark.parametrize(("name", "k"), SCALED)
def test_a_result_has_its_unit(name, k, unit, seed):
    """Against the same call on the same numbers, multiplied by a power of two."""
    case = CASES[name][k]
    call = case.call or getattr(metrics, name)
    ordinary = case.make(np.random.default_rng(seed))
    extreme = dict(ordinary)
    factor, exponent = unit
    for argument, power in case.units.items():
        # another power of the unit is one of two as well, which keeps both in step
        moved = factor if power == 1 else 2.0 ** max(-1074.0, min(1000.0, power * exponent))
        back = exponent if power == 1 else round(math.log2(moved))
        extreme[argument] = scaled(ordinary[argument], moved)
        ordinary[argument] = shifted(extreme[argument], -back)
    expected, found = outcome(call, **ordinary), outcome(call, **extreme)
    if isinstance(expected, (str, ValueError)):
        # rounded to multiples of the least number, some inputs are not valid any more
        assert isinstance(found, (str, ValueError))
        return
    check(found, expected, case.gives, exponent)


def check(found, expected, gives, exponent):
    """That all numbers are as expected, or said to be beyond what float64 holds or squares."""
    if isinstance(found, ValueError) and abs(exponent) > HELD:
        assert "float64" in str(found)
        return
    wanted = [(value, power * exponent) for value, power in numbers(expected, gives)]
    # a certificate's gap is round-off, of which nothing need be left
    sizes = [np.frexp(v)[1] + s for v, s in wanted if s and np.max(np.abs(v)) > 1e-9]
    # a little below the least number one may also round to zero
    assert not any(size.max() > 1024 or size.max() < -1080 for size in sizes), found
    assert not isinstance(found, (str, ValueError)), found
    for (value, _), (known, shift) in zip(numbers(found, gives), wanted, strict=True):
        if shift:
            known = np.ldexp(known, round(shift))
            np.testing.assert_allclose(value, known, rtol=1e-9, atol=1e-323)
        elif isinstance(known, (float, np.ndarray)):
            np.testing.assert_allclose(value, known, rtol=1e-9, atol=1e-15)
        else:
            assert value == known


# Numbers of many sizes at once, against exact arithmetic


def reach_of(rng):
    """How far exponents go: within what must be right, or to the ends of float64."""
    return int(rng.choice([HELD // 2, 1000]))


def wild(rng, shape, reach):
    """Numbers with exponents of their own."""
    return np.ldexp(rng.normal(size=shape), rng.integers(-reach, reach, size=shape))


def exact(values):
    return [Fraction(float(each)) for each in np.ravel(values)]


def root(square):
    """A square root that has sixty bits, whatever the size."""
    shift = 200 + 2 * max(0, 1 + square.denominator.bit_length() - square.numerator.bit_length())
    return Fraction(math.isqrt(int(square * 4**shift)), 2**shift)


def agree(found, expected, reach):
    """Whether a number is right; an error in its place says so, and only beyond what is held."""
    if isinstance(found, (str, ValueError)):
        return reach > HELD and "float64" in str(found)
    return abs(Fraction(float(found)) - expected) <= abs(expected) / 10**9 + 2 * LEAST


@given(generators)
@quick
def test_ratios_of_scores_of_any_size(rng):
    reach = reach_of(rng)
    merged, expert, chance = wild(rng, 3, reach).tolist()
    expert, (m, e, c) = abs(expert), exact([merged, abs(expert), chance])
    loss = outcome(metrics.merging_loss, merged=merged, expert=expert)
    assert agree(loss, 100 * (m - e) / e, reach)
    kept = outcome(metrics.retention, merged=merged, expert=expert, chance=chance)
    assert kept == "expert_not_above_chance" if e <= c else agree(kept, (m - c) / (e - c), reach)


@given(generators)
@quick
def test_sizes_of_any_size(rng):
    reach = reach_of(rng)
    above, below = np.abs(wild(rng, 2, reach)).tolist()
    ratio = root(Fraction(above) / Fraction(below))
    size = outcome(metrics.relative_size, mean_square=above, reference_mean_square=below)
    assert agree(size, ratio, reach)
    losses = wild(rng, 5, reach)
    assert agree(metrics.pool_losses(losses).mean, sum(exact(losses)) / 5, reach)


@given(generators)
@quick
def test_angles_of_vectors_of_any_size(rng):
    reach = reach_of(rng)
    a, b = (np.ldexp(rng.uniform(1, 2, 6), int(rng.integers(-reach, reach))) for _ in range(2))
    a = np.ldexp(a, rng.integers(-reach, 1, size=6))
    dot = sum(x * y for x, y in zip(exact(a), exact(b), strict=True))
    square_a, square_b = (sum(x * x for x in exact(each)) for each in (a, b))
    if a.any():
        of = metrics.ConflictSums.of
        cosine = root(dot * dot / (square_a * square_b))
        apart = sum(abs(x - y) for x, y in zip(exact(a), exact(b), strict=True))
        change = apart / sum(exact(a) + exact(b))
        assert agree(outcome(lambda: metrics.cosine(of(a, b))), cosine, reach)
        tiles = outcome(lambda: [of(a[k : k + 2], b[k : k + 2]) for k in (0, 2, 4)])
        if isinstance(tiles, list):
            assert agree(metrics.cosine(sum(tiles, metrics.ConflictSums())), cosine, reach)
        assert agree(outcome(lambda: metrics.magnitude_change_ratio(of(a, b))), change, reach)
    scale = outcome(metrics.effective_scale, merged=a, summed=b)
    assert agree(scale, dot / square_b, reach)


@given(generators)
@quick
def test_distances_of_states_of_any_size(rng):
    reach = reach_of(rng)
    states = np.ldexp(rng.normal(size=(3, 1, 4)), rng.integers(-reach, reach, size=(3, 1, 1)))
    base, zeros = wild(rng, (1, 4), reach), np.zeros((1, 4))
    distances = metrics.pairwise_distances
    found = {
        "none": outcome(distances, states=[states], normalize="none"),
        "base": outcome(distances, states=[states], normalize="base", base_states=[base]),
        "squared": outcome(metrics.pairwise_squared_distances, states=[states]),
        "gram": outcome(metrics.own_input_gram, states=[states], base_states=[zeros]),
    }
    size = sum(x * x for x in exact(base))
    for name, value in found.items():
        if isinstance(value, ValueError):
            assert reach > HELD
            assert "float64" in str(value)
            continue
        for i, j in np.ndindex(3, 3):
            one, two = exact(states[i]), exact(states[j])
            if name == "gram":
                dot = sum(x * y for x, y in zip(one, two, strict=True))
                norms = root(sum(x * x for x in one) * sum(y * y for y in two))
                assert abs(Fraction(float(value[i, j])) - dot) <= norms / 10**9 + LEAST
                continue
            square = sum((x - y) ** 2 for x, y in zip(one, two, strict=True))
            known = {"none": root(square), "base": root(square / size), "squared": square}[name]
            assert agree(value[..., i, j].item(), known, reach)
