"""Weights put together by several threads: the same numbers as by one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch
from engine_of import engine_of
from peft import IA3Config, get_peft_model
from pools import Adapter, write_pool
from transformers import AutoModelForCausalLM

from pytest_mergegate.engine.models.placement import batches
from pytest_mergegate.engine.weights import mixing
from pytest_mergegate.engine.weights.mixing import FactoredTensor, PlacedWeights, in_lanes
from pytest_mergegate.engine.weights.task_vectors import ComputedDeltas

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.pool.experts import Expert

ADAPTERS = {
    "every_layer": Adapter(),
    "dora": Adapter(lora={"use_dora": True, "target_modules": ["v_proj", "down_proj"]}),
    "embedding": Adapter(lora={"target_modules": ["embed_tokens", "q_proj"]}),
    "head": Adapter(lora={"target_modules": ["up_proj", "lm_head"]}),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Engine:
    return engine_of(write_pool(tmp_path_factory.mktemp("lanes"), seed, ADAPTERS, count=2))


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("most", [0, 1, 40, 10**6])
def test_batches_hold_every_row_once_and_no_more_than_they_may(seed: int, most: int) -> None:
    lengths = torch.randint(1, 25, (30,), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = list(batches(lengths, most))
    assert sorted(index for batch in cut for index in batch) == list(range(30))
    for batch in cut:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= most


@pytest.mark.usefixtures("two_cores")
class TestInLanes:
    def test_in_order_on_one_core_each(self) -> None:
        assert in_lanes(lambda k: (k, torch.get_num_threads()), range(9)) == [
            (k, 1) for k in range(9)
        ]
        assert torch.get_num_threads() == 2
        found: list[int] = []

        def work() -> None:
            torch.ones(1 << 20).sum()  # a thread asks for how many cores it has on first use
            found.append(torch.get_num_threads())

        later = threading.Thread(target=work)
        later.start()
        later.join()
        assert found == [2]

    def test_alone_is_in_this_thread(self) -> None:
        here = threading.get_ident()
        assert in_lanes(lambda _: threading.get_ident(), range(3), alone=True) == [here] * 3

    def test_an_error_gets_through(self) -> None:
        with pytest.raises(ZeroDivisionError):
            in_lanes(lambda k: 1 // k, [1, 0, 2])
        assert torch.get_num_threads() == 2


class TestPlaces:
    @pytest.mark.usefixtures("two_cores")
    def test_what_is_computed_for_a_whole_expert_is_computed_once(
        self, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mixing, "_WORTH", 0)
        gate = write_pool(tmp_path, seed, {"a": Adapter(), "b": Adapter()}, count=2)
        base = AutoModelForCausalLM.from_pretrained(gate.parent / "base")
        config = IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
        )
        model = get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if "ia3_" in name:
                parameter.data = 1 + 0.1 * torch.randn_like(parameter)
        model.save_pretrained(gate.parent / "adapters" / "a")
        engine = engine_of(gate)
        computed: list[str] = []
        compute = ComputedDeltas._compute

        def counted(self: ComputedDeltas, expert: Expert) -> Path:
            computed.append(expert.name)
            return compute(self, expert)

        monkeypatch.setattr(ComputedDeltas, "_compute", counted)
        weights = engine.mixed_weights({"a": 1.0})
        places = {n: torch.empty_like(engine.model.parameters[n]) for n in weights}
        weights.fill(places, lambda _: None)
        assert computed == ["a"]

    @pytest.mark.usefixtures("two_cores")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_is_put_there_is_the_sum(
        self, engine: Engine, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mixing, "_WORTH", 0)
        monkeypatch.setattr(mixing, "_TILE", 100)  # no row's length, and less than a parameter
        scales = {"every_layer": 0.7, "dora": -0.4, "embedding": 0.3, "head": 1.2}
        weights = engine.mixed_weights(scales)
        places = {n: torch.empty_like(engine.model.parameters[n], dtype=dtype) for n in weights}
        told: list[str] = []
        weights.fill(places, told.append)
        assert sorted(told) == sorted(weights)
        for name, place in places.items():
            expected = engine.model.base_weight(name).double()
            for expert, scale in scales.items():
                delta = engine.vectors.delta(expert, name)
                expected = expected + (0 if delta is None else scale * delta.double())
            close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {}
            torch.testing.assert_close(place, expected.to(dtype), **close)

    @pytest.mark.usefixtures("two_cores")
    @pytest.mark.parametrize("alone", [True, False])
    def test_alone_they_are_put_one_after_the_other(
        self, engine: Engine, alone: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mixing, "_WORTH", 0)
        threads: set[threading.Thread] = set()

        def put(_: str, place: torch.Tensor) -> None:
            threads.add(threading.current_thread())
            place.fill_(1 / 3)

        weights = PlacedWeights("abc", engine.model, put, alone=alone)
        places = {name: torch.empty(2, dtype=torch.bfloat16) for name in "abc"}
        weights.fill(places, lambda _: None)
        assert (threads == {threading.current_thread()}) == alone
        assert all(torch.equal(p, torch.full((2,), 1 / 3).bfloat16()) for p in places.values())


@pytest.mark.parametrize("shape", [(), (6,), (13, 7), (3, 4, 5)], ids=str)
def test_rows_are_those_of_the_whole(shape: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    own = torch.randn(shape)
    terms = [(torch.randn(13, 2), torch.randn(2, 7), 0.3)] * 2 if shape == (13, 7) else []
    whole = own + sum(scale * (left @ right) for left, right, scale in terms)
    rows = FactoredTensor(own, terms)
    torch.testing.assert_close(rows.put(torch.empty(shape)), whole)
    height = rows.own.shape[0]
    for first in range(height):
        tile = rows.into(torch.empty(min(2, height - first), rows.own.shape[1]), first)
        torch.testing.assert_close(tile, whole.reshape(rows.own.shape)[first : first + 2])
