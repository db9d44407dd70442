"""The merged model that a user is handed is the one that was judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from pools import read_gate, write_gate

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.merging.build import build_merged_model

if TYPE_CHECKING:
    from pathlib import Path

METHODS = [
    "linear",
    {"method": "task_arithmetic", "weight": 0.7},
    {"method": "ties", "density": 0.4},
    {"method": "dare_linear", "density": 0.5},
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights", ["uniform", "optimal", "minimax"])
def test_it_is_bit_for_bit(pool_copy: Path, tmp_path: Path, weights: str, dtype: str) -> None:
    merging = {"methods": METHODS, "weights": weights}
    gate = write_gate(pool_copy, {**read_gate(pool_copy), "merge": merging, "dtype": dtype})
    reports = [assess(gate, cache=tmp_path), assess(gate, cache=tmp_path)]
    assert [m.digest for m in reports[0].merges] == [m.digest for m in reports[1].merges]
    models = [build_merged_model(load_gate(gate), merge, "cpu") for merge in reports[1].merges]
    first = models[0].state_dict()
    assert any(not torch.equal(first[k], v) for k, v in models[2].state_dict().items())


def test_another_one_is_refused(pool_copy: Path) -> None:
    (judged,) = assess(pool_copy).merges
    for changed in ({"digest": "0" * 64}, {"weights": {"a": 0.5, "b": 0.25, "c": 0.25}}):
        other = judged.model_copy(update=changed)
        with pytest.raises(GateError, match="other weights than those that were judged"):
            build_merged_model(load_gate(pool_copy), other, "cpu")
