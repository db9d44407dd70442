"""Which modules an adapter changes, and how much: as PEFT has it after loading it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pools import Adapter, write_adapter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.adapters import CONFIG, WEIGHTS
from pytest_mergegate.pool.changes import Factors
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.pool.experts import Expert

KINDS = {
    "all linear": {},
    "rslora": {"use_rslora": True},
    "one kind": {"target_modules": ["v_proj"]},
    "regular expression": {"target_modules": r".*layers\.1\.(self_attn\.[qv]_proj|mlp\.up_proj)"},
    "output layer": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "dora": {"use_dora": True},
    "dora under rslora": {"use_dora": True, "use_rslora": True, "alpha_pattern": {"q_proj": 5}},
    "another module trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
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
    x, _ = read(base, *paths)
    factors = [change for change in x.changes.values() if isinstance(change, Factors)]
    found = {factor.parameter.removesuffix(".weight"): factor.scale for factor in factors}
    assert found == pytest.approx(expected)


def read(base: Path, *paths: Path) -> tuple[Expert, ...]:
    """The experts of a gate without findings."""
    experts = {path.name: str(path) for path in paths}
    preflight = run_preflight(gate_from({"base": str(base), "experts": experts}, root=base.parent))
    assert preflight.findings == ()
    assert preflight.pool is not None
    return preflight.pool.experts


def test_fingerprint_is_of_the_content(tiny_pool: Path, tmp_path: Path) -> None:
    base = tiny_pool.parent / "base"
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    write_adapter(base, one, 0)
    write_adapter(base, third, 1)

    def fingerprints(path: Path) -> tuple[str, str]:
        expert, _ = read(base, path, third)
        return expert.fingerprint, expert.weights_fingerprint

    before = fingerprints(one)
    shutil.copytree(one, other)
    assert fingerprints(other) == before
    config = other / CONFIG
    config.write_text(config.read_text().replace('"lora_dropout": 0.0', '"lora_dropout": 0.1'))
    touched = fingerprints(other)
    assert touched[1] == before[1]
    assert touched[0] != before[0]
    assert read(base, one, third)[1].weights_fingerprint != before[1]


@pytest.mark.parametrize("shape", [(), (0, 32), (3, 32), (2,)], ids=str)
def test_rows_of_another_shape_than_is_listed(
    tiny_pool: Path, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    base = tiny_pool.parent / "base"
    paths = [write_adapter(base, tmp_path / name, k) for k, name in enumerate("xy")]
    key = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    tensors = load_file(paths[0] / WEIGHTS)
    save_file({**tensors, key: torch.ones(shape)}, paths[0] / WEIGHTS)
    config = json.loads((paths[0] / CONFIG).read_text())
    config["trainable_token_indices"] = [0, 1] if shape != (0, 32) else []
    (paths[0] / CONFIG).write_text(json.dumps(config))
    experts = {path.name: str(path) for path in paths}
    preflight = run_preflight(gate_from({"base": str(base), "experts": experts}, root=base.parent))
    codes = [finding.code for finding in preflight.findings if finding.severity == "error"]
    assert codes == ([] if shape == (0, 32) else ["MG104"])


def test_one_tensor_under_two_names(tiny_pool: Path, tmp_path: Path) -> None:
    base = tiny_pool.parent / "base"
    dora = Adapter(lora={"use_dora": True})
    paths = [write_adapter(base, tmp_path / name, k, dora) for k, name in enumerate("xy")]
    tensors = load_file(paths[0] / WEIGHTS)
    key = next(key for key in tensors if "lora_magnitude_vector" in key)
    stem = key.removesuffix(".weight")
    both = {stem: tensors[key], f"{stem}.weight": 2 * tensors[key]}
    save_file({**tensors, **both}, paths[0] / WEIGHTS)
    experts = {path.name: str(path) for path in paths}
    preflight = run_preflight(gate_from({"base": str(base), "experts": experts}, root=base.parent))
    (found,) = preflight.findings
    assert (found.code, found.severity, found.expert) == ("MG102", "error", "x")
    assert "are two names for one" in found.message
