"""The last feed-forward block at the positions read alone: the same states, fewer positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from engine_of import engine_of
from transformers.models.llama.modeling_llama import LlamaMLP

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.engine.models.causal import CausalModel


@pytest.mark.parametrize("positions", ["answer", "last"])
def test_states_are_those_of_the_whole_layer(tiny_pool: Path, positions: str, seed: int) -> None:
    model: CausalModel = engine_of(tiny_pool).model  # type: ignore[assignment]
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 20, (12, 2), generator=random).tolist()
    rows = [
        tuple(tuple(torch.randint(2, 20, (n,), generator=random).tolist()) for n in (prompt, more))
        for prompt, more in lengths
    ]
    layer = model._last_layer
    assert layer is not None
    assert layer.enabled
    trimmed = model.states(rows, positions)  # type: ignore[arg-type]
    layer.enabled = False
    whole = model.states(rows, positions)  # type: ignore[arg-type]
    for a, b in zip(trimmed, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_block_sees_only_what_is_read(tiny_pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: CausalModel = engine_of(tiny_pool).model  # type: ignore[assignment]
    layer = model._last_layer
    assert layer is not None
    seen: list[int] = []
    whole = layer._whole

    def counting(states: torch.Tensor) -> torch.Tensor:
        seen.append(states.shape[:-1].numel())
        return whole(states)

    monkeypatch.setattr(layer, "_whole", counting)
    model.states([((2, 3, 4, 5), (6, 7)), ((2, 3), ())], "answer")
    assert seen == [3 + 1]


def test_a_block_that_looks_around_is_left_alone(
    tiny_pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: own(self, x.cumsum(dim=1)))
    model: CausalModel = engine_of(tiny_pool).model  # type: ignore[assignment]
    assert model._last_layer is not None
    assert not model._last_layer.enabled
