"""Every kind of expert against PEFT's own merge and PEFT's own forward."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from architectures import ARCHITECTURES
from conflicts import dense_of, naive_conflicts
from peft import PeftModel
from variants import CASES, VARIANTS, load, write_variant

from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import Gate, gate_from
from pytest_mergegate.pool.pool import Pool, read_pool
from pytest_mergegate.stages.conflict import run_conflict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def pool_of(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Callable[[str, str], Gate]:
    """The pool of a case, written once for both tests, which only read it."""
    return cache(lambda *case: write_pool(tmp_path_factory.mktemp("pool"), *case, seed))


def write_pool(folder: Path, variant: str, architecture: str, seed: int) -> Gate:
    base = ARCHITECTURES[architecture].write(folder / "base", seed)
    for k, name in enumerate("ab", start=1):
        write_variant(
            base, folder / name, variant=variant, architecture=architecture, seed=seed + k
        )
    return gate_from({"base": "base", "experts": {"a": "a", "b": "b"}}, root=folder)


def read(gate: Gate) -> Pool:
    pool, errors = read_pool(gate)
    assert pool is not None, errors
    return pool


def with_peft(folder: Path, name: str, architecture: str) -> Any:
    base = load(folder / "base", architecture)
    return PeftModel.from_pretrained(base, folder / name, autocast_adapter_dtype=False).eval()


@pytest.mark.parametrize(("variant", "architecture"), CASES)
def test_task_vectors_are_pefts_merge_minus_the_base(
    pool_of: Callable[[str, str], Gate], variant: str, architecture: str
) -> None:
    gate = pool_of(variant, architecture)
    pool = read(gate)
    vectors = TaskVectors(pool)
    base = dict(load(gate.root / "base", architecture).named_parameters())
    conflict = run_conflict(pool, dense_of(vectors), lambda _: None)
    for expert in pool.experts:
        assert expert.kind == VARIANTS[variant].kind
        merged = dict(
            with_peft(gate.root, expert.name, architecture).merge_and_unload().named_parameters()
        )
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


PROMPTS = ((5, 9, 3, 14), (7, 4), (11, 2, 6, 6, 8, 3, 10))
FORCED = (12, 5)


@torch.inference_mode()
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


@pytest.mark.parametrize(("variant", "architecture"), CASES)
def test_hidden_states_are_those_of_pefts_own_forward(
    pool_of: Callable[[str, str], Gate], variant: str, architecture: str
) -> None:
    gate = pool_of(variant, architecture)
    pool = read(gate)
    engine = Engine(pool, "cpu")
    forced = FORCED if engine.positions in engine.model.forced_positions else ()
    rows = [(prompt, forced) for prompt in PROMPTS]
    base = engine.model.states(rows, engine.positions)
    for name in pool.names:
        model = with_peft(gate.root, name, architecture)
        with engine.expert(name):
            states = engine.model.states(rows, engine.positions)
        for prompt, state, unadapted in zip(PROMPTS, states, base, strict=True):
            expected = pefts_states(model, architecture, prompt)
            size = float(expected.abs().max())
            assert float((state - expected).abs().max()) <= 1e-4 * size
            moved = VARIANTS[variant].kind != "ln_tuning" and "head" not in variant
            assert not moved or float((state - unadapted).abs().max()) > 1e-3 * size
