"""How much of a model is run at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_mergegate.engine.models import placement
from pytest_mergegate.engine.models.placement import batch_tokens, bounded, use_own_cores

if TYPE_CHECKING:
    import pytest

CPU = torch.device("cpu")


def test_batches_are_small_on_a_cpu() -> None:
    assert batch_tokens(CPU) == 512 * torch.get_num_threads()
    assert batch_tokens(torch.device("cuda")) > 8192


def test_batches_stay_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for left, tokens in ((1 << 30, 4096), (1 << 24, 4096), (1 << 23, 2048), (0, 512)):
        monkeypatch.setattr(placement, "available", lambda _, left=left: left)
        assert bounded(4096, 1024, CPU) == tokens


def test_torch_takes_no_more_threads_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(placement, "thread_count", lambda: 4)
        use_own_cores()
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(placement, "thread_count", lambda: 2)
        use_own_cores()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
