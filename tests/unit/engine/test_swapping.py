"""Experts put in place and taken out again: W0 + s·B·A, and W0 to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from engine_of import engine_of
from peft import PeftModel
from pools import read_gate, write_gate
from transformers import AutoModelForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = ["float32", "bfloat16"]


def _in(pool: Path, dtype: str) -> Path:
    return write_gate(
        pool.with_name(f"{dtype}.mergegate.yaml"), {**read_gate(pool), "dtype": dtype}
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_base_does_not_drift(pool_copy: Path, dtype: str) -> None:
    engine = engine_of(_in(pool_copy, dtype))
    before = {name: p.data.clone() for name, p in engine.model.parameters.items()}
    assert {p.dtype for p in before.values()} == {getattr(torch, dtype)}
    for _ in range(10):
        for name in engine.pool.names:
            with engine.expert(name):
                pass
    for name, parameter in engine.model.parameters.items():
        assert torch.equal(parameter.data, before[name])


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_expert_s_weights_are_rounded_once(pool_copy: Path, dtype: str) -> None:
    engine = engine_of(_in(pool_copy, dtype))
    name = engine.pool.names[0]
    base = AutoModelForCausalLM.from_pretrained(
        pool_copy.parent / "base", dtype=getattr(torch, dtype)
    ).float()
    folder = pool_copy.parent / engine.pool.experts[0].reference
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    with engine.expert(name):
        for parameter, own in merged.named_parameters():
            held = engine.model.parameters[parameter].data
            room = torch.finfo(held.dtype).eps * own.abs().max() + 1e-6
            assert (held.float() - own).abs().max() <= room


def test_states_in_bfloat16_are_near_those_in_float32(pool_copy: Path) -> None:
    whole, rough = (engine_of(_in(pool_copy, dtype)).model for dtype in DTYPES)
    rows = [((2, 3, 4), (5,)), ((6, 7), ())]
    for a, b in zip(whole.states(rows, "answer"), rough.states(rows, "answer"), strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() <= 0.1 * a.norm()
        assert not torch.equal(a, b)


def test_only_what_is_asked_for_is_put_together(tiny_pool: Path) -> None:
    engine = engine_of(tiny_pool)
    weights = engine.expert_weights("a")
    made: list[str] = []
    make = weights._make  # type: ignore[attr-defined]
    weights._make = lambda p: (made.append(p), make(p))[1]  # type: ignore[attr-defined]
    name = next(iter(weights))
    assert weights[name].shape == engine.model.parameters[name].shape
    assert made == [name]
    with pytest.raises(KeyError):
        weights["model.norm.weight"]
