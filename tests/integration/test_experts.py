"""Every kind of expert against PEFT's own merge and PEFT's own forward."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from architectures import ARCHITECTURES
from conflicts import dense_of, naive_conflicts
from peft import LoraConfig, PeftModel, get_peft_model
from pools import edit_adapter_config
from variants import CASES, VARIANTS, save_variant

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.pool import Pool, read_pool
from pytest_mergegate.stages.conflict import run_conflict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor


PROMPTS = ((5, 9, 3, 14), (7, 4), (11, 2, 6, 6, 8, 3, 10))
FORCED = (12, 5)


@torch.no_grad()
def pefts_states(model: Any, architecture: str, prompt: tuple[int, ...]) -> torch.Tensor:
    """What the adapted model computes for one input, unmerged and without a batch; [T, d]."""
    family = ARCHITECTURES[architecture].family
    own = model.base_model.model
    ids = torch.tensor([prompt])
    if family == "causal":
        ids = torch.tensor([(*prompt, *FORCED)])
        states: torch.Tensor = own.base_model(input_ids=ids).last_hidden_state[0]
        return states[len(prompt) - 1 :]
    if family == "encoder":
        return own(input_ids=ids).last_hidden_state[0].double().mean(0, keepdim=True).float()
    if family == "seq2seq":
        start = own.config.decoder_start_token_id
        out = own(
            input_ids=ids,
            decoder_input_ids=torch.tensor([(start, *FORCED)]),
            output_hidden_states=True,
        )
        last: torch.Tensor = out.decoder_hidden_states[-1][0]
        return last
    return read_by_head(own, ids)


def read_by_head(model: Any, ids: torch.Tensor) -> torch.Tensor:
    read = []
    for name, part in model.named_modules():
        linear = isinstance(part, torch.nn.Linear) and "lora_" not in name
        if linear and part.out_features == model.config.num_labels:
            part.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    model(input_ids=ids)
    state: torch.Tensor = read[-1]
    return state if state.ndim == 2 else state[:, -1]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two experts of one kind, and what PEFT makes of them."""

    variant: str
    pool: Pool
    vectors: TaskVectors
    base: dict[str, Tensor]
    """The base's parameters."""
    merged: dict[str, dict[str, Tensor]]
    """Each expert's parameters, merged by PEFT."""
    states: dict[str, list[Tensor]]
    """Each expert's, unmerged, at PROMPTS."""


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(
    request: pytest.FixtureRequest,
    random_base: Callable[[str], tuple[Path, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
) -> Case:
    """Made once for both tests, which only read it."""
    variant, architecture = request.param
    folder, base = random_base(architecture)
    root = tmp_path_factory.mktemp("experts")
    merged, states = {}, {}
    for k, name in enumerate("ab", start=1):
        place = root / name
        save_variant(deepcopy(base), place, variant, architecture, seed + k)
        model = PeftModel.from_pretrained(deepcopy(base), place, autocast_adapter_dtype=False)
        model.eval()
        states[name] = [pefts_states(model, architecture, prompt) for prompt in PROMPTS]
        merged[name] = dict(model.merge_and_unload().named_parameters())
    gate = gate_from({"base": str(folder), "experts": {"a": "a", "b": "b"}}, root=root)
    pool, errors = read_pool(gate)
    assert pool is not None, errors
    return Case(
        variant=variant,
        pool=pool,
        vectors=TaskVectors(pool),
        base=dict(base.named_parameters()),
        merged=merged,
        states=states,
    )


def test_task_vectors_are_pefts_merge_minus_the_base(case: Case) -> None:
    pool, vectors, base = case.pool, case.vectors, case.base
    conflict = run_conflict(pool, dense_of(vectors), lambda _: None)
    for expert in pool.experts:
        assert expert.kind == VARIANTS[case.variant].kind
        merged = case.merged[expert.name]
        assert set(merged) == set(base)
        assert set(expert.changes) <= set(base)
        total, moved = 0.0, 0
        for parameter, own in base.items():
            expected = (merged[parameter] - own).detach()
            delta = vectors.delta(expert.name, parameter)
            if delta is None:
                assert torch.equal(merged[parameter], own), parameter
                continue
            size = max(1e-3, float(expected.abs().max()), float(own.abs().max()))
            assert float((delta - expected).abs().max()) <= 1e-5 * size, parameter
            factors = vectors.factors(expert.name, parameter)
            if factors is not None:
                torch.testing.assert_close(factors[0] @ factors[1], delta, rtol=1e-5, atol=1e-6)
            total += float(expected.double().square().sum())
            moved += bool(expected.any())
        assert moved
        assert conflict.norms[expert.name] ** 2 == pytest.approx(total, rel=1e-3)
    expected_pairs = naive_conflicts(vectors)
    for pair in conflict.pairs:
        expected = expected_pairs[pair.a, pair.b]
        for ratio in ("magnitude_change_ratio", "conflicting_magnitude_ratio", "cosine"):
            found = getattr(pair, ratio).number
            assert found == pytest.approx(getattr(expected, ratio), rel=1e-4, abs=1e-6), ratio


def test_hidden_states_are_those_of_pefts_own_forward(case: Case) -> None:
    engine = Engine(case.pool, "cpu", case.vectors)
    forced = FORCED if engine.positions in engine.model.forced_positions else ()
    rows = [(prompt, forced) for prompt in PROMPTS]
    base = engine.model.states(rows, engine.positions)
    for name in case.pool.names:
        with engine.expert(name):
            states = engine.model.states(rows, engine.positions)
        for state, expected, unadapted in zip(states, case.states[name], base, strict=True):
            size = float(expected.abs().max())
            assert float((state - expected).abs().max()) <= 1e-4 * size
            moved = VARIANTS[case.variant].kind != "ln_tuning" and "head" not in case.variant
            assert not moved or float((state - unadapted).abs().max()) > 1e-3 * size


def test_a_start_that_hangs_on_its_random_numbers(
    random_base: Callable[[str], tuple[Path, Any]], tmp_path: Path, seed: int
) -> None:
    """PEFT's own loading gives another model each time."""
    folder, base = random_base("llama")
    for k, name in enumerate("ab"):
        save_variant(deepcopy(base), tmp_path / name, "lora", "llama", seed + k)
    edit_adapter_config(tmp_path / "a", init_lora_weights="pissa_niter_0")
    gate = gate_from({"base": str(folder), "experts": {"a": "a", "b": "b"}}, root=tmp_path)
    pool, errors = read_pool(gate)
    assert pool is not None, errors
    with pytest.raises(PoolError, match="random numbers") as caught:
        TaskVectors(pool).delta("a", next(iter(pool.experts[0].changes)))
    assert caught.value.code == "MG002"


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_was_converted_on_saving(
    random_base: Callable[[str], tuple[Path, Any]], tmp_path: Path, seed: int, start: str
) -> None:
    """PEFT writes twice the rank then, and a plain LoRA on the base as it is."""
    folder, base = random_base("llama")
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "up_proj"]}
    model = get_peft_model(deepcopy(base), LoraConfig(init_lora_weights=start, **settings))
    model.save_pretrained(tmp_path / "start")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(
        tmp_path / "a", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    save_variant(deepcopy(base), tmp_path / "b", "lora", "llama", seed)
    gate = gate_from({"base": str(folder), "experts": {"a": "a", "b": "b"}}, root=tmp_path)
    pool, errors = read_pool(gate)
    assert pool is not None, errors
    assert pool.experts[0].config["r"] == 6
    vectors, own = TaskVectors(pool), dict(base.named_parameters())
    for name, parameter in model.merge_and_unload().named_parameters():
        delta = vectors.delta("a", name)
        if delta is not None:
            expected = parameter.detach() - own[name]
            assert float((delta - expected).abs().max()) <= 1e-4 * float(own[name].abs().max())
