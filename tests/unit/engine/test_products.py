"""Half precision's weights computed with in float32, where its own products are slow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from pools import Adapter, read_gate, write_gate, write_pool

from pytest_mergegate import assess
from pytest_mergegate.engine.models import placement, products
from pytest_mergegate.engine.running import workspace
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.types import Report

HALVES = ("bfloat16", "float16")
ADAPTERS = {
    "every_layer": Adapter(),
    "head": Adapter(lora={"target_modules": ["up_proj", "lm_head"]}),
}
ROWS = [((2, 3, 4), (5,)), ((6, 7, 8, 9), ()), ((9,), (3, 3, 3))]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    return write_pool(tmp_path_factory.mktemp("products"), seed, ADAPTERS)


def engine_of(gate: Path, dtype: str, computes: str | None) -> Engine:
    file = gate.with_name(f"{dtype}.mergegate.yaml")
    pool, errors = read_pool(load_gate(write_gate(file, read_gate(gate) | {"dtype": dtype})))
    assert pool is not None, errors
    return Engine(pool, "cpu", computes=computes)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("streamed", [False, True])
def test_weights_are_those_that_are_shipped(
    gate: Path, dtype: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = engine_of(gate, dtype, None)
    if streamed:
        monkeypatch.setattr(placement, "available", lambda _: 0)
    wide = engine_of(gate, dtype, "float32")
    assert wide.model.is_streamed == streamed
    assert wide.model.module.dtype == torch.float32
    assert narrow.model.module.dtype == wide.model.dtype == getattr(torch, dtype)
    for scales in ({"every_layer": 1.0}, {"head": 1.0}, {"every_layer": 0.5, "head": 0.5}):
        with narrow.mixed("sum", scales), wide.mixed("sum", scales):
            for name, parameter in narrow.model.parameters.items():
                own = wide.model.loaded_weight(name)
                assert own.dtype == parameter.dtype
                assert torch.equal(own, parameter.data)
                assert torch.equal(wide.model.computed_weight(name), parameter.data.float())
    for name in narrow.model.parameters:
        assert torch.equal(wide.model.held_weight(name), narrow.model.held_weight(name))


@pytest.mark.parametrize("dtype", HALVES)
def test_states_are_exact_for_rounded_weights(gate: Path, dtype: str) -> None:
    """Those of a model in float32 that is given the rounded weights; the type's own are near."""
    narrow, wide, exact = (
        engine_of(gate, *how) for how in ((dtype, None), (dtype, "float32"), ("float32", None))
    )
    error = torch.finfo(getattr(torch, dtype)).eps
    with wide.expert("head"), narrow.expert("head"):
        for name, parameter in exact.model.parameters.items():
            parameter.data = narrow.model.loaded_weight(name).float()
        every = [one.model.states(ROWS, "answer") for one in (narrow, wide, exact)]
        for half, single, expected in zip(*every, strict=True):
            torch.testing.assert_close(single, expected, rtol=1e-6, atol=1e-6)
            assert (half - single).norm() <= 8 * error * single.norm()
        logits = [one.require_head().logits(every[1][0]) for one in (wide, exact)]
        torch.testing.assert_close(*logits, rtol=1e-6, atol=1e-6)
        mixed = wide.mixed_head({"head": 1.0, "every_layer": 1.0})
        with wide.mixed("sum", {"head": 1.0, "every_layer": 1.0}):
            given = wide.require_head().logits(every[1][0], mixed)
            assert torch.equal(given, wide.require_head().logits(every[1][0]))


@pytest.mark.parametrize("dtype", HALVES)
def test_gates_are_the_same_either_way(
    tmp_path: Path, seed: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near in every number, kept apart, and named."""
    file = write_pool(tmp_path, seed)
    settings = read_gate(file) | {"dtype": dtype, "budget": {"max_mds": 5, "max_disagreement": 0.9}}
    settings["probes"] = {"positions": "last"}  # no answer that parts at a tie moves the states
    file = write_gate(file, settings)

    def run(slow: bool) -> Report:
        monkeypatch.setattr(products, "are_slow", lambda *_: slow)
        # what was found is kept with the processor it was found on
        monkeypatch.setattr(workspace, "own_processor", lambda: f"slow: {slow}")
        return assess(file, cache=tmp_path / "cache")

    wide, narrow = run(True), run(False)
    assert wide.settings["computing"] == {dtype: "float32"}
    assert "computing" not in narrow.settings
    other = write_gate(tmp_path / "other.mergegate.yaml", read_gate(file) | {"dtype": "float32"})
    # conflicts are the task vectors' alone
    assert narrow.cache.hits == assess(other, cache=tmp_path / "cache").cache.hits
    digests = [[merge.digest for merge in report.merges] for report in (wide, narrow)]
    assert digests[0] == digests[1] != []
    for own, other in zip(wide.pairs, narrow.pairs, strict=True):
        assert own.distance == pytest.approx(other.distance, rel=0.1)
    for slow, first in ((True, wide), (False, narrow)):
        again = run(slow)
        assert again.cache.misses == 0
        assert (
            json.loads(again.to_json(None))["experts"] == json.loads(first.to_json(None))["experts"]
        )


def test_what_was_found_is_kept(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a trial of another run might end."""
    file = write_pool(tmp_path, seed)
    file = write_gate(file, read_gate(file) | {"dtype": "bfloat16"})
    tried: list[str] = []
    monkeypatch.setattr(
        products, "are_slow", lambda precision, _: (tried.append(precision), len(tried) == 1)[1]
    )
    for _ in range(2):
        report = assess(file, stage="hidden", cache=tmp_path / "cache")
        assert report.settings["computing"] == {"bfloat16": "float32"}
    assert tried == ["bfloat16"]


def test_not_where_there_is_no_memory_for_it(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_pool(tmp_path, seed)
    file = write_gate(file, read_gate(file) | {"dtype": "bfloat16"})
    monkeypatch.setattr(products, "are_slow", lambda *_: True)
    monkeypatch.setattr(workspace, "memory_left", lambda: 1 << 10)
    report = assess(file, stage="hidden", cache=False)
    assert "computing" not in report.settings


@pytest.mark.parametrize(("rate", "slow"), [(1.0, False), (1.4, False), (3.0, True), (60.0, True)])
def test_a_trial(rate: float, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own: a product in float32 takes a second."""
    now = 0.0

    def linear(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += 1.0 if left.dtype == torch.float32 else rate
        return left

    monkeypatch.setattr(products.time, "perf_counter", lambda: now)
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    assert products.are_slow("bfloat16", "cpu") == slow


def test_a_trial_of_this_machine_is_short() -> None:
    before = products.time.perf_counter()
    for half in HALVES:
        assert isinstance(products.are_slow(half, "cpu"), bool)
    assert products.time.perf_counter() - before < 20
