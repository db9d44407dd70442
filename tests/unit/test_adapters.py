"""Which modules an adapter changes, and how much: as PEFT has it after loading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pools import Adapter, write_adapter
from transformers import AutoModelForCausalLM

from pytest_mergegate.gatefile import gate_from
from pytest_mergegate.pool.adapters import CONFIG, read_adapter
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {
    "all linear": {},
    "rslora": {"use_rslora": True},
    "one kind": {"target_modules": ["v_proj"]},
    "regular expression": {"target_modules": r".*layers\.1\.(self_attn\.[qv]_proj|mlp\.up_proj)"},
    "output layer": {"target_modules": ["lm_head", "q_proj"]},
    "one layer": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 1},
    "listed layers": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
        "layers_pattern": "layers",
    },
    "excluded": {
        "target_modules": ["q_proj", "k_proj"],
        "exclude_modules": ["layers.0.self_attn.k_proj"],
    },
    "excluded by expression": {"exclude_modules": r".*\.mlp\..*"},
    "patterns": {
        "rank_pattern": {"up_proj": 2, "layers.0.self_attn.q_proj": 6},
        "alpha_pattern": {r"layers\.\d+\.mlp\.down_proj": 3, "q_proj": 5},
    },
    "patterns under rslora": {
        "use_rslora": True,
        "rank_pattern": {"^model.layers.1.mlp.up_proj": 2},
        "alpha_pattern": {"up_proj": 3, "model.layers.1.mlp.up_proj": 7},
    },
}


@pytest.mark.parametrize("lora", KINDS.values(), ids=KINDS)
def test_scales_and_modules_are_those_of_peft(
    tiny_pool: Path, tmp_path: Path, lora: dict[str, Any]
) -> None:
    base = tiny_pool.parent / "base"
    paths = [write_adapter(base, tmp_path / n, k, Adapter(lora=lora)) for k, n in enumerate("xy")]
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), paths[0])
    expected = {
        name.removeprefix("base_model.model."): layer.scaling["default"]
        for name, layer in loaded.named_modules()
        if isinstance(layer, LoraLayer)
    }
    expert = read_adapter(paths[0], name="x", reference="x", where="")
    assert {m.module: m.scale for m in expert.modules.values()} == pytest.approx(expected)
    experts = {path.name: str(path) for path in paths}
    gate = gate_from({"base": str(base), "experts": experts}, root=tmp_path)
    assert run_preflight(gate).findings == ()


def test_fingerprint_is_of_the_content(tiny_pool: Path, tmp_path: Path) -> None:
    base = tiny_pool.parent / "base"
    one, other = (write_adapter(base, tmp_path / n, 0) for n in ("one", "other"))

    def read(path: Path) -> tuple[str, str]:
        expert = read_adapter(path, name="x", reference="x", where="")
        return expert.fingerprint, expert.weights_fingerprint

    assert read(one) == read(other)
    config = other / CONFIG
    config.write_text(config.read_text().replace('"lora_dropout": 0.0', '"lora_dropout": 0.1'))
    assert read(one)[1] == read(other)[1]
    assert read(one)[0] != read(other)[0]
    assert read(write_adapter(base, tmp_path / "third", 1))[1] != read(one)[1]
