"""MG133: how many bits of their numbers tensors use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pytest_mergegate.preflight.mg133_coarse_numbers import significand_bits


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        (torch.float8_e5m2, 2),
        (torch.float8_e4m3fn, 3),
        (torch.bfloat16, 7),
        (torch.float16, 10),
        (torch.float32, 23),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 2.0**-6])
def test_bits_of_a_type(dtype: torch.dtype, bits: int, scale: float, seed: int) -> None:
    numbers = torch.randn(4096, generator=torch.Generator().manual_seed(seed))
    stored = numbers.to(dtype).to(torch.float32) * scale
    assert significand_bits(stored.numpy()) == bits


@pytest.mark.parametrize("numbers", [np.zeros(4096), np.full(60, 0.3)])
def test_too_few_numbers_say_nothing(numbers: np.ndarray) -> None:
    assert significand_bits(numbers.astype(np.float32)) is None


def test_powers_of_two_use_none() -> None:
    assert significand_bits(np.full(100, 0.25, np.float32)) == 0
