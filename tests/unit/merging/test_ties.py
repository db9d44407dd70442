"""The quick TIES against mergekit's, which sorts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from pytest_mergegate.engine.weights.mixing import FactoredTensor
from pytest_mergegate.merging.in_place import merge_stack, own_arithmetic
from pytest_mergegate.merging.method import Method
from pytest_mergegate.merging.ties import put_ties


def method(weights: dict[str, float], **parameters: Any) -> Method:
    return Method(
        label="ties",
        name="ties",
        parameters=parameters,
        weights=weights,
        seed=0,
        takes_base=True,
        takes_weights=True,
    )


def ties(planned: Method, base: torch.Tensor, experts: dict[str, torch.Tensor]) -> torch.Tensor:
    return merge_stack(planned, base, experts, "the only one")


def mergekit(planned: Method, base: torch.Tensor, experts: dict[str, torch.Tensor]) -> torch.Tensor:
    return merge_tensors(
        [base, *experts.values()],
        "ties",
        parameters=planned.mergekit_parameters,
        ids=["the base", *experts],
        base_index=0,
    )


@pytest.mark.parametrize("shape", [(1,), (7,), (1023,), (40, 33), (5, 6, 7), (301, 1003)], ids=str)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"density": 0.5},
        {"density": 0.2, "lambda": 0.7},
        {"density": 0.9, "normalize": False},
        {"density": 0.001},
        {"density": 0},
        {"density": 0.5, "int8_mask": True},
    ],
    ids=str,
)
def test_equals_mergekit(shape: tuple[int, ...], parameters: dict[str, Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for names in ("a", "ab", "abcde"):
        # no base: (base + τ) − base would round numbers to equal ones, of which any may be trimmed
        base = torch.zeros(shape)
        experts = {name: _apart(shape, generator) * 10.0**-k for k, name in enumerate(names)}
        weights = {name: float(torch.rand((), generator=generator)) + 0.2 for name in names}
        weights[names[-1]] *= 1 if len(names) < 5 else -0.3
        planned = method(weights, **parameters)
        assert own_arithmetic(planned) is put_ties
        expected = mergekit(planned, base, experts)
        torch.testing.assert_close(ties(planned, base, experts), expected, rtol=1e-6, atol=1e-7)


def _apart(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Normal numbers of random signs in a random order, no two of one size: of equal ones any may
    be trimmed."""
    count = math.prod(shape)
    sizes = torch.erfinv((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()
    assert len(sizes.unique()) == count
    signs = torch.randint(2, (count,), generator=generator) * 2 - 1
    return (sizes[torch.randperm(count, generator=generator)] * signs).reshape(shape)


def test_equal_numbers_are_trimmed_to_the_density(seed: int) -> None:
    """Which of them is anyone's choice, how many is not."""
    for size in (1000, 400_000):
        base = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        merged = ties(method({"a": 1.0}, density=0.3), torch.zeros(size), {"a": base.sign()})
        assert int((merged != 0).sum()) == 0.3 * size
        merged = ties(method({"a": 1.0}, density=0.3), base, {"a": base + 0.25})
        assert int((merged != base).sum()) == 0.3 * size


@pytest.mark.parametrize("odd", [0.0, 1e6, float("nan")])
def test_many_numbers_unlike_all_others(odd: float, seed: int) -> None:
    size = 100_000
    own = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    own[::6] = odd
    base, planned = torch.zeros(size), method({"a": 1.0}, density=0.4)
    merged = ties(planned, base, {"a": own})
    expected = mergekit(planned, base, {"a": own})
    if odd:
        torch.testing.assert_close(merged, expected, equal_nan=True)
    assert int((merged != 0).sum()) == 0.4 * size


def test_experts_in_factors_are_those_made_whole(seed: int) -> None:
    torch.manual_seed(seed)
    base = (torch.randn(300, 170) * 0.02).bfloat16()
    factors = {n: (torch.randn(300, 4) * 0.1, torch.randn(4, 170) * 0.1) for n in "abc"}
    planned = method({"a": 0.5, "b": 1.0, "c": 0.3}, density=0.4)
    made = {n: FactoredTensor(base, [(left, right, 0.8)]) for n, (left, right) in factors.items()}
    place = torch.empty(base.shape)
    put_ties(planned, FactoredTensor(base), made, place)
    whole = {n: rows.put(torch.empty(base.shape)) for n, rows in made.items()}
    expected = ties(planned, base.float(), whole)
    # round-off may trim another one where two magnitudes are as good as equal
    assert int((~torch.isclose(place, expected, rtol=1e-5, atol=1e-7)).sum()) <= 6


def test_an_expert_that_changes_nothing_has_no_say(seed: int) -> None:
    base = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    planned = method({"a": 1.0, "b": 1.0}, density=0.5)
    alone = ties(method({"a": 1.0}, density=0.5), base, {"a": base * 1.5})
    torch.testing.assert_close(ties(planned, base, {"a": base * 1.5, "b": base}), alone)


def test_rescaling_is_left_to_mergekit() -> None:
    assert own_arithmetic(method({"a": 1.0}, rescale=True)) is None


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_nan_in_an_expert_is_nan_in_the_merge(density: float, seed: int) -> None:
    base = torch.randn(700, generator=torch.Generator().manual_seed(seed))
    own = base * 1.5
    own[600] = float("nan")
    merged = ties(method({"a": 1.0, "b": 1.0}, density=density), base, {"a": own, "b": base * 2})
    assert merged.isnan().nonzero().flatten().tolist() == [600]
