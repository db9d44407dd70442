"""The fast ways to run an expert, against PEFT's own forward, in every dtype and memory."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from pools import Adapter, read_gate, write_adapter, write_base, write_gate, write_pool
from transformers import AutoModelForCausalLM

from pytest_mergegate.engine.models import model as engine_model
from pytest_mergegate.engine.models import placement
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_mergegate.engine.models.readings import Row

ADAPTERS = {
    "every_layer": Adapter(),
    "head": Adapter(lora={"target_modules": ["up_proj", "lm_head"], "use_rslora": True}),
    "embedding": Adapter(lora={"target_modules": ["embed_tokens", "q_proj"]}),
    "dora": Adapter(lora={"use_dora": True, "target_modules": ["v_proj", "down_proj"]}),
}
DTYPES = ("float32", "bfloat16", "float16")
RESIDENCES = ("whole", "streamed")
POSITIONS = ("answer", "last", "mean")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    return write_pool(tmp_path_factory.mktemp("runner"), seed, ADAPTERS, count=2)


@pytest.fixture(params=RESIDENCES)
def residence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "streamed":
        monkeypatch.setattr(placement, "available", lambda _: 0)
    return str(request.param)


def engine_of(gate: Path, **settings: Any) -> Engine:
    """The engine of a gate with other ``settings``."""
    file = gate.with_name("other.mergegate.yaml")
    loaded = load_gate(write_gate(file, read_gate(gate) | settings))
    pool, errors = read_pool(loaded)
    assert pool is not None, errors
    return Engine(pool, "cpu")


def random_rows(seed: int) -> list[Row]:
    """Prompts and answers of many lengths, in no order."""
    rng = np.random.default_rng(seed)
    return [
        (
            tuple(map(int, rng.integers(2, 30, rng.integers(1, 24)))),
            tuple(map(int, rng.integers(2, 30, rng.integers(0, 6)))),
        )
        for _ in range(12)
    ]


def peft_model(gate: Path, name: str) -> Any:
    base = AutoModelForCausalLM.from_pretrained(gate.parent / "base", dtype=torch.float32)
    return PeftModel.from_pretrained(base, gate.parent / "adapters" / name).eval()


@torch.no_grad()
def naive_states(model: Any, row: Row, positions: str) -> Tensor:
    prompt, forced = row
    tokens = (*prompt, *forced) if positions == "answer" else prompt
    out = model(input_ids=torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
    states: Tensor = out.hidden_states[-1][0]
    if positions == "mean":
        return states.mean(0, keepdim=True)
    return states[len(prompt) - 1 :]


@pytest.mark.parametrize("tokens", [1, 64, 10**6])
def test_experts_are_those_of_peft(
    gate: Path, residence: str, tokens: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_model, "batch_tokens", lambda _: tokens)
    engine, rows = engine_of(gate), random_rows(seed + tokens)
    assert engine.model.is_streamed == (residence == "streamed")
    for name in ADAPTERS:
        reference = peft_model(gate, name)
        with engine.expert(name):
            for positions in POSITIONS:
                found = engine.model.states(rows, positions)
                for row, state in zip(rows, found, strict=True):
                    assert state.dtype == torch.float32
                    expected = naive_states(reference, row, positions)
                    torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-4)
            state = naive_states(reference, rows[0], "last")
            logits = engine.require_head().logits(state)
            with torch.no_grad():
                own = reference(input_ids=torch.tensor([rows[0][0]])).logits[0, -1:]
            torch.testing.assert_close(logits, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_streamed_is_the_same(
    gate: Path, dtype: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, whole = random_rows(seed), engine_of(gate, dtype=dtype)
    monkeypatch.setattr(placement, "available", lambda _: 0)
    streamed = engine_of(gate, dtype=dtype)
    for name in ADAPTERS:
        for parameter in whole.vectors.parameters(name):
            own = whole.model.base_weight(parameter)
            assert torch.equal(streamed.model.base_weight(parameter), own)
        with whole.expert(name), streamed.expert(name):
            both = (e.model.states(rows, "answer") for e in (whole, streamed))
            for one, other in zip(*both, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
            prompts = [prompt for prompt, _ in rows]
            answers = [e.require_head().decode(prompts, 5) for e in (whole, streamed)]
            assert answers[0] == answers[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_are_rounded_once(gate: Path, residence: str, dtype: str) -> None:
    engine = engine_of(gate, dtype=dtype)
    for name in ADAPTERS:
        with engine.expert(name):
            for parameter in engine.vectors.parameters(name):
                delta = engine.vectors.delta(name, parameter)
                assert delta is not None
                exact = engine.model.base_weight(parameter).double() + delta.double()
                found = engine.model.loaded_weight(parameter)
                assert found.dtype == getattr(torch, dtype)
                half = torch.finfo(found.dtype).eps / 2
                # below the smallest normal number the steps between numbers are all alike
                size = exact.abs().clamp(min=torch.finfo(found.dtype).tiny)
                bound = half * size + 1e-6 * exact.abs().max()
                assert bool(((found.double() - exact).abs() <= bound).all())


def test_an_expert_inside_a_merge_is_that_expert(gate: Path, residence: str, seed: int) -> None:
    """Also where the merge changes what the expert leaves alone."""
    engine, rows = engine_of(gate), random_rows(seed)
    with engine.mixed("sum", dict.fromkeys(ADAPTERS, 0.5)):
        merged = engine.model.states(rows, "answer")
        for name in ADAPTERS:
            with engine.expert(name):
                inside = engine.model.states(rows, "answer")
                logits = engine.require_head().logits(inside[0])
            alone = engine_of(gate)
            with alone.expert(name):
                outside = alone.model.states(rows, "answer")
                assert torch.equal(alone.require_head().logits(outside[0]), logits)
            assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
        again = engine.model.states(rows, "answer")
    assert all(torch.equal(a, b) for a, b in zip(merged, again, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_drifts(gate: Path, residence: str, dtype: str, seed: int) -> None:
    engine, rows = engine_of(gate, dtype=dtype), random_rows(seed)
    model = engine.model
    before = {name: model.loaded_weight(name).clone() for name in model.parameters}
    states = model.states(rows, "answer")
    for k in range(20):
        with engine.expert(list(ADAPTERS)[k % len(ADAPTERS)]):
            model.states(rows[:1], "last")
    for name, weight in before.items():
        assert torch.equal(model.loaded_weight(name), weight)
    for one, other in zip(states, model.states(rows, "answer"), strict=True):
        assert torch.equal(one, other)


def test_the_stored_dtype_stays_mapped(tmp_path: Path, seed: int) -> None:
    """Weights are the file's pages and no memory of the process's own."""
    gate = write_pool(tmp_path, seed, count=1)
    base = gate.parent / "base"
    wide = {"hidden_size": 256, "intermediate_size": 16384, "num_hidden_layers": 4}
    write_base(base, seed, **wide)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(base)
    del model
    for folder in (gate.parent / "adapters").iterdir():
        write_adapter(base, folder, seed)
    engine = engine_of(gate, dtype="bfloat16")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps")
    ranges = [line.split()[0] for line in maps.read_text().splitlines() if str(base) in line]
    spans = [tuple(int(end, 16) for end in span.split("-")) for span in ranges]
    for name, parameter in engine.model.parameters.items():
        assert any(a <= parameter.data_ptr() < b for a, b in spans), name


def live_bytes() -> int:
    storages = {}
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor) and not issubclass(
            type(found), torch._subclasses.FakeTensor
        ):
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_experts_do_not_pile_up(tmp_path: Path, seed: int) -> None:
    """With any number of adapters: the base, and one expert's weights."""
    gate = write_pool(tmp_path, seed, count=1)
    settings = read_gate(gate)
    first = next(iter(settings["experts"]))
    copies = {f"copy{k}": settings["experts"][first] for k in range(64)}
    engine = engine_of(gate, experts=copies)
    gc.collect()
    idle = live_bytes()
    sizes = [engine.model.parameters[p].numel() for p in engine.vectors.parameters("copy0")]
    for number, name in enumerate(copies):
        with engine.expert(name):
            if number % 8 < 7:  # looking at all objects takes long, and what piles up stays
                continue
            assert live_bytes() <= idle + 4 * sum(sizes) + 4096
    assert live_bytes() <= idle + 4096


def test_states_in_bfloat16_are_near_those_in_float32(gate: Path) -> None:
    whole, rough = (engine_of(gate, dtype=d).model for d in DTYPES[:2])
    rows = [((2, 3, 4), (5,)), ((6, 7), ())]
    for a, b in zip(whole.states(rows, "answer"), rough.states(rows, "answer"), strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() <= 0.1 * a.norm()
        assert not torch.equal(a, b)


def test_only_what_is_asked_for_is_put_together(gate: Path) -> None:
    engine = engine_of(gate)
    weights = engine.mixed_weights({"every_layer": 1.0})
    made: list[str] = []
    make = weights._made
    weights._made = lambda p: (made.append(p), make(p))[1]  # type: ignore[attr-defined]
    name = next(iter(weights))
    assert weights[name].shape == engine.model.parameters[name].shape
    assert made == [name]
    with pytest.raises(KeyError):
        weights["model.norm.weight"]
