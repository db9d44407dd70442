"""Weights in files instead of memory."""

from __future__ import annotations

import gc

import pytest
import torch

from pytest_mergegate.engine.models.streaming import SpilledWeights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_went_in_comes_out(dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    tensors = {"a.weight": torch.randn(3, 5).T.to(dtype), "b": torch.randn(7).to(dtype)}
    spilled = SpilledWeights()
    spilled.update(tensors)
    assert list(spilled) == list(tensors)
    for name, tensor in tensors.items():
        assert spilled[name].dtype == dtype
        assert torch.equal(spilled[name], tensor)
    spilled["b"] = tensors["a.weight"]
    assert torch.equal(spilled["b"], tensors["a.weight"])
    del spilled["a.weight"]
    assert list(spilled) == ["b"]
    with pytest.raises(KeyError):
        spilled["a.weight"]


def test_the_files_go_with_it() -> None:
    spilled = SpilledWeights()
    spilled["a"] = torch.zeros(2)
    folder = spilled._folder
    del spilled
    gc.collect()
    assert not folder.exists()
