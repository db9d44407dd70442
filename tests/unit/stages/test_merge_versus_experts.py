"""Answers that differ and the divergence between them, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pytest_mergegate.engine.running.references import agreement_of


def test_one_position_that_differs_makes_another_answer() -> None:
    own = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    other = torch.tensor([[3.0, 0.0], [3.0, 0.0]])
    agreement = agreement_of([own, own, own], [own, other, own + 7])
    assert agreement.distances == (0, 1, 0)
    assert agreement.rate == pytest.approx(1 / 3)


def test_divergence_is_averaged_within_an_input_first() -> None:
    even = torch.zeros(1, 2)
    sure = torch.tensor([[math.log(3.0), 0.0]])  # 3/4, 1/4
    kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    short = agreement_of([even], [sure])
    assert short.kl == pytest.approx(kl)
    long = agreement_of([even, even.repeat(3, 1)], [sure, even.repeat(3, 1)])
    assert long.kl == pytest.approx(kl / 2)


def test_divergence_is_from_the_expert() -> None:
    even, sure = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    assert agreement_of([sure], [even]).kl != pytest.approx(agreement_of([even], [sure]).kl)
