"""The compiled look at bfloat16 checkpoints against numpy's, and against what the others see."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pytest_mergegate.pool import statistics
from pytest_mergegate.pool.bfloat16 import squared_distance
from pytest_mergegate.pool.tensors import StoredTensors

if TYPE_CHECKING:
    from pathlib import Path


def bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.flatten().view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4000])
def test_squared_distance(seed: int, size: int) -> None:
    torch.manual_seed(seed)
    own, base = (torch.randn(size).bfloat16() for _ in range(2))
    expected = float((own.double() - base.double()).square().sum())
    assert squared_distance(bits(own), bits(base)) == pytest.approx(expected, rel=1e-12)
    if size:
        own[size // 2] = float("nan")
        assert not np.isfinite(squared_distance(bits(own), bits(base)))


Found = dict[str, tuple[float | None, frozenset[str]]]


def look(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: dict[str, torch.Tensor],
    base: dict[str, torch.Tensor],
) -> tuple[Found, Found]:
    """What the compiled loops find, and what numpy does."""
    for name, tensors in (("own", own), ("base", base)):
        (folder / name).mkdir(exist_ok=True)
        save_file(tensors, folder / name / "model.safetensors")
    stored = {
        name: StoredTensors([folder / name / "model.safetensors"]) for name in ("own", "base")
    }

    weights: Any = SimpleNamespace(tensors=stored["base"])
    found = []
    for many in (1, 1 << 60):
        monkeypatch.setattr(statistics, "_MANY", many)
        norms: Found = {}
        for name in own:
            looked = statistics._Look(stored["own"], weights)
            norms[name] = looked._difference(name, name), frozenset(looked.non_finite)
        found.append(norms)
    return found[0], found[1]


def test_norms_and_what_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(statistics, "_RUN", 700)  # several of them
    torch.manual_seed(seed)
    base = {name: torch.randn(50, 60).bfloat16() for name in ("moved", "same", "broken", "shaky")}
    own = {name: tensor.clone() for name, tensor in base.items()}
    own["moved"] += 0.1 * torch.randn(50, 60).bfloat16()
    own["broken"][3, 4] = float("inf")
    base["shaky"][5, 6] = float("nan")
    compiled, by_numpy = look(tmp_path, monkeypatch, own, base)
    expected = float((own["moved"].double() - base["moved"].double()).norm())
    assert compiled["moved"][0] == pytest.approx(expected, rel=1e-12)
    assert by_numpy["moved"][0] == pytest.approx(expected, rel=1e-5)
    assert compiled["same"] == by_numpy["same"] == (0.0, frozenset())
    assert compiled["broken"] == by_numpy["broken"] == (None, frozenset({"broken"}))
    assert compiled["shaky"][1] == by_numpy["shaky"][1] == frozenset()
