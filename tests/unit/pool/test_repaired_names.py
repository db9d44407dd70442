"""Adapters saved by PEFT whose tensors were renamed afterwards, as tools in the wild do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pools import Adapter, write_adapter
from safetensors.torch import load_file, save_file

from pytest_mergegate.engine.weights.adapters import stored_state
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.adapters import WEIGHTS
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_mergegate.common.findings import Finding
    from pytest_mergegate.pool.experts import Expert

P = "base_model.model."
WAYS: dict[str, Callable[[str], str]] = {
    "the adapter's own name": lambda key: with_name(key, "default"),
    "another name of the adapter": lambda key: with_name(key, "sft_2"),
    "no prefix": lambda key: key.removeprefix(P),
    "the prefix twice": lambda key: P + key,
    "a doubled model.": lambda key: key.replace(P, f"{P}model.", 1),
    "half of the prefix": lambda key: key.replace(P, "base_model.", 1),
    "the other half": lambda key: key.replace(P, "model.", 1),
    "a compiled model": lambda key: key.replace(P, f"{P}_orig_mod.", 1),
    "wrapped modules": lambda key: key.replace(".self_attn", "._fsdp_wrapped_module.self_attn"),
    "no prefix, and its own name": lambda key: with_name(key.removeprefix(P), "default"),
}


def with_name(key: str, name: str) -> str:
    """The name of a tensor in a model in memory."""
    if "lora_" in key:
        return re.sub(r"(lora_\w+)", rf"\1.{name}", key)
    return key.replace("norm.weight", f"norm.modules_to_save.{name}.weight")


KINDS = {
    "lora": Adapter(),
    "dora": Adapter(lora={"use_dora": True, "target_modules": ["q_proj", "down_proj"]}),
    "trained norm": Adapter(lora={"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
}


@pytest.fixture(scope="module", params=KINDS)
def saved(
    request: pytest.FixtureRequest, tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Expert]:
    """An adapter as PEFT saves it, and how it is read."""
    folder = tmp_path_factory.mktemp("saved") / "x"
    write_adapter(tiny_pool.parent / "base", folder, 7, KINDS[request.param])
    expert, findings = read(tiny_pool, folder)
    assert findings == []
    assert expert is not None
    return folder, expert


def read(gate: Path, folder: Path) -> tuple[Expert | None, list[Finding]]:
    """One expert of a gate beside a sound one, and what is found."""
    experts = {"x": str(folder), "other": str(gate.parent / "adapters" / "a")}
    settings = {"base": str(gate.parent / "base"), "experts": experts}
    found = run_preflight(gate_from(settings, root=gate.parent))
    return found.pool and found.pool.experts[0], [*found.findings]


def renamed(folder: Path, to: Path, change: Callable[[str], str]) -> Path:
    """A copy whose tensors go by other names."""
    to.mkdir()
    (to / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    tensors = {change(key): tensor for key, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, to / WEIGHTS, {"format": "pt"})
    return to


@pytest.mark.parametrize("way", WAYS)
def test_one_reading_fits(
    saved: tuple[Path, Expert], tiny_pool: Path, tmp_path: Path, way: str
) -> None:
    folder, expected = saved
    expert, findings = read(tiny_pool, renamed(folder, tmp_path / "x", WAYS[way]))
    assert [(f.code, f.severity, f.expert) for f in findings] == [("MG102", "warning", "x")]
    assert "is read as 'base_model.model.model." in findings[0].message
    assert "mergegate convert" in findings[0].fix
    assert expert is not None
    assert expert.changes == expected.changes
    state = stored_state(expert)
    assert state.keys() == {*expected.tensors}
    for key in expected.tensors:
        assert np.array_equal(expert.tensors.floats(key), expected.tensors.floats(key))
        assert torch.equal(state[key], load_file(folder / WEIGHTS)[key])


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key.replace("q_proj", "query"),  # another architecture's
        lambda key: key.replace("model.layers.0", "layers.0"),  # some of them only
        lambda key: key.replace(".weight", f".{'ab'['layers.0' in key]}.weight"),  # two adapters
    ],
    ids=["other modules", "some", "two adapters"],
)
def test_what_is_open_is_refused(
    tiny_pool: Path, tmp_path: Path, change: Callable[[str], str]
) -> None:
    folder = renamed(tiny_pool.parent / "adapters" / "b", tmp_path / "x", change)
    _, findings = read(tiny_pool, folder)
    assert "MG102" in {f.code for f in findings if f.severity == "error"}
