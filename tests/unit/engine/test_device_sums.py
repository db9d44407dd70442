"""The accelerator's way of adding up, on the CPU, against the CPU's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pools import write_pool

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.weights import device_sums
from pytest_mergegate.engine.weights.delta_rows import FactorRows
from pytest_mergegate.engine.weights.device_sums import DeviceSums, pair_sums
from pytest_mergegate.engine.weights.kernels import add_pairs
from pytest_mergegate.engine.weights.tensor_sums import TensorSums
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.pool import Pool, read_pool
from pytest_mergegate.stages.conflict import run_conflict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def naive(deltas: np.ndarray) -> np.ndarray:
    """[4, experts, experts] of [experts, elements]."""
    sums = np.zeros((4, len(deltas), len(deltas)))
    add_pairs(np.ascontiguousarray(deltas), sums, False)
    return sums


@pytest.mark.parametrize("experts", [1, 2, 5])
def test_pair_sums(seed: int, experts: int) -> None:
    rng = np.random.default_rng(seed)
    deltas = rng.standard_normal((7, experts, 33))
    deltas[rng.random(deltas.shape) < 0.3] = 0.0
    found = pair_sums(torch.from_numpy(deltas)).numpy()
    expected = naive(deltas.transpose(1, 0, 2).reshape(experts, -1))
    np.testing.assert_allclose(np.triu(found), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bytes_at_a_time", [1, 1 << 20])
def test_factors(seed: int, monkeypatch: pytest.MonkeyPatch, bytes_at_a_time: int) -> None:
    monkeypatch.setattr(device_sums, "_BYTES", bytes_at_a_time)
    rng = np.random.default_rng(seed)
    factors = [
        FactorRows(
            left=rng.standard_normal((12, rank)).astype(np.float32),
            right=rng.standard_normal((rank, 20)).astype(np.float32),
            scale=2.0 / rank,
        )
        for rank in (1, 3, 8)
    ]
    factors[1].left[4:] = 0.0
    dense = [f.scale * (f.left[2:9].astype(float) @ f.right.astype(float)) for f in factors]
    found = DeviceSums(torch.device("cpu")).over(factors, 2, 9)
    expected = naive(np.stack(dense).reshape(len(factors), -1))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


class Wrong(DeviceSums):
    """An accelerator that loses a little of every sum."""

    def over(self, factors: Sequence[FactorRows], start: int, stop: int) -> np.ndarray:
        return super().over(factors, start, stop) * 0.999


def test_a_stage_on_an_accelerator(tmp_path: Path, seed: int) -> None:
    pool = read(write_pool(tmp_path, seed))
    parameter = "model.layers.0.mlp.up_proj.weight"
    by_cpu = TensorSums(parameter, pool, never)
    by_device = TensorSums(parameter, pool, never, DeviceSums(torch.device("cpu")))
    whole = [(0, by_cpu.rows)]
    assert list(by_device.pieces()) == whole
    np.testing.assert_allclose(by_device.over(whole), by_cpu.over(whole), rtol=1e-9)
    with pytest.raises(GateError, match="does not add up as the CPU does"):
        TensorSums(parameter, pool, never, Wrong(torch.device("cpu"))).over(whole)


def test_a_device_that_is_not_there(tmp_path: Path, seed: int) -> None:
    pool = read(write_pool(tmp_path, seed))
    with pytest.raises(GateError, match="cuda:99"):
        run_conflict(pool, never, lambda _: None, "cuda:99")


def read(gate: Path) -> Pool:
    pool, errors = read_pool(gate_from(gate, root=gate.parent, budget={}))
    assert pool is not None, errors
    return pool


def never(name: str, parameter: str) -> np.ndarray:
    raise AssertionError((name, parameter))
