"""Batches side by side, and weights put together by several threads: the same numbers as alone."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_of import engine_of
from peft import IA3Config, get_peft_model
from pools import Adapter, write_pool
from transformers import AutoModelForCausalLM

from pytest_mergegate.engine.models import lanes as engine_lanes
from pytest_mergegate.engine.models.lanes import in_lanes
from pytest_mergegate.engine.weights import mixing
from pytest_mergegate.engine.weights.computed import ComputedDeltas
from pytest_mergegate.engine.weights.mixing import PlacedWeights, Rows

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


def random_rows(seed: int, count: int = 24) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        length = int(torch.randint(least, most, (), generator=generator))
        return tuple(torch.randint(2, 30, (length,), generator=generator).tolist())

    return [(tokens(1, 24), tokens(0, 6)) for _ in range(count)]


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("tokens", [0, 1, 40, 10**6])
@pytest.mark.parametrize("positions", ["answer", "last", "mean"])
def test_states_are_those_of_one_lane(
    engine: Engine, tokens: int, positions: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(seed + tokens)
    monkeypatch.setattr("pytest_mergegate.engine.models.model.batch_tokens", lambda _: tokens)
    for name in ADAPTERS:
        with engine.expert(name):
            alone = engine.model.states(rows, positions)
            with monkeypatch.context() as patch:
                patch.setattr(engine_lanes, "_WORTH", 0)
                together = engine.model.states(rows, positions)
        for one, other in zip(alone, together, strict=True):
            assert torch.linalg.norm(one - other) <= 1e-5 * torch.linalg.norm(one)


@pytest.mark.usefixtures("two_cores")
def test_lanes_share_weights_and_nothing_else(
    engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_lanes, "_WORTH", 0)
    twin = engine.model.twin()
    own = {id(module) for module in engine.model.module.modules()}
    assert not own & {id(module) for module in twin.module.modules()}
    assert list(map(id, engine.model.parameters.values())) == list(
        map(id, twin.parameters.values())
    )
    rows = random_rows(seed)
    with engine.expert("every_layer"):
        for one, other in zip(
            engine.model.batch_states(rows, "answer"),
            twin.batch_states(rows, "answer"),
            strict=True,
        ):
            assert torch.equal(one, other)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("what", ["cannot be copied", "reads otherwise", "gives NaN"])
def test_a_model_without_a_twin_is_read_in_one_lane(
    tmp_path: Path, what: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_lanes, "_WORTH", 0)
    monkeypatch.setattr("pytest_mergegate.engine.models.model.batch_tokens", lambda _: 200)
    model = engine_of(write_pool(tmp_path, seed, count=2)).model
    rows, threads = random_rows(seed), set()
    expected = model.states(rows, "answer")
    model._lanes = engine_lanes.Lanes(model)
    if what == "cannot be copied":
        model.module.lock = threading.Lock()
    else:
        make = type(model).twin

        def other(self: Any) -> Any:
            twin = make(self)
            read = twin.batch_states
            off = float("nan") if what == "gives NaN" else 1.1
            twin.batch_states = lambda rows, positions: [off * s for s in read(rows, positions)]
            return twin

        monkeypatch.setattr(type(model), "twin", other)
    batch_states = model.batch_states

    def noted(rows: Any, positions: Any) -> Any:
        threads.add(threading.get_ident())
        return batch_states(rows, positions)

    monkeypatch.setattr(model, "batch_states", noted)
    for one, two in zip(expected, model.states(rows, "answer"), strict=True):
        assert torch.linalg.norm(one - two) <= 1e-5 * torch.linalg.norm(one)
    assert threads == {threading.get_ident()}


def test_batches_are_even() -> None:
    weights = {"weight": torch.empty(1 << 24)}
    model = SimpleNamespace(device=torch.device("cpu"), is_streamed=False, parameters=weights)
    lanes = engine_lanes.Lanes(model)  # type: ignore[arg-type]
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        cut = lanes.cut([20] * 200, 2048)
    finally:
        torch.set_num_threads(torch_threads)
    sizes = [20 * len(batch) for batch in cut]
    assert len(cut) == 8
    assert sum(sizes) == 4000
    assert max(sizes) <= 512
    assert sorted(i for batch in cut for i in batch) == list(range(200))


def test_a_few_rows_stay_together(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding that leaks shows only in a batch of several lengths."""
    monkeypatch.setattr(engine_lanes, "_WORTH", 0)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(16)
    try:
        assert len(engine_lanes.Lanes(engine.model).cut([4, 1, 9], 8192)) == 1
    finally:
        torch.set_num_threads(torch_threads)


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
        weights = engine.expert_weights("a")
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
    rows = Rows(own, terms)
    torch.testing.assert_close(rows.put(torch.empty(shape)), whole)
    places = torch.randint(0, max(own.numel(), 1), (20,))
    torch.testing.assert_close(rows.at(places), whole.reshape(-1)[places])
    height = rows.own.shape[0]
    for first in range(height):
        tile = rows.into(torch.empty(min(2, height - first), rows.own.shape[1]), first)
        torch.testing.assert_close(tile, whole.reshape(rows.own.shape)[first : first + 2])
