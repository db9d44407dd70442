"""The base: its parameters' names, what is tied, and when its fingerprint is worth the reading."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from architectures import ARCHITECTURES
from safetensors.numpy import load_file, save_file

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool import fingerprints
from pytest_mergegate.pool.base import Base, read_base
from pytest_mergegate.pool.references import Located

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def read(folder: Path) -> Base:
    return read_base(Located(path=folder), str(folder), "mergegate.yaml:1")


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


@pytest.mark.parametrize(
    ("architecture", "flag", "head", "tied"),
    [
        ("llama", False, True, False),
        ("llama", True, False, True),
        ("llama", None, True, False),
        ("llama", None, False, False),
        ("gpt2", None, False, True),
        ("gpt2", None, True, True),
        ("gpt2", False, True, False),
    ],
)
def test_tied(
    tmp_path: Path, seed: int, architecture: str, flag: bool | None, head: bool, tied: bool
) -> None:
    folder = ARCHITECTURES[architecture].write(tmp_path, seed)
    edit_config(folder, tie_word_embeddings=... if flag is None else flag)
    embedding = read(folder).embedding
    assert embedding is not None
    edit(folder, lambda t: t.pop("lm_head.weight", None))
    if head:
        edit(folder, lambda t: t.update({"lm_head.weight": t[embedding].copy()}))
    base = read(folder)
    assert base.ties_embeddings is tied
    alias = tied and not head
    assert base.parameter("lm_head.weight") == (embedding if alias else "lm_head.weight")


def test_names_of_old_checkpoints(tmp_path: Path, seed: int) -> None:
    folder = ARCHITECTURES["bert_classifier"].write(tmp_path, seed)
    names = set(read(folder).tensors)

    def rename(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            tensors[old.replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = np.arange(64)

    edit(folder, rename)
    assert set(read(folder).tensors) == names


def test_the_bias_of_a_layer_is_no_mask(tmp_path: Path, seed: int) -> None:
    folder = ARCHITECTURES["llama"].write(tmp_path, seed)
    added = {
        "model.layers.0.attn.bias": np.ones((1, 1, 4, 4), dtype=np.float32),
        "model.layers.1.attn.bias": np.ones(4, dtype=np.float32),
    }
    edit(folder, lambda t: t.update(added))
    assert added.keys() & read(folder).tensors.keys() == {"model.layers.1.attn.bias"}


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/name"}')
    with pytest.raises(PoolError, match="is an adapter, not a base") as error:
        read(tmp_path)
    assert "write base: org/name" in str(error.value.fix)


def test_gigabytes_are_not_read_for_a_fingerprint_alone(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = read(ARCHITECTURES["llama"].write(tmp_path, seed))
    assert base.known_fingerprint == base.fingerprint
    monkeypatch.setattr(fingerprints, "_QUICK", 1000)
    assert base.known_fingerprint is None


def test_the_norm_is_estimated_from_a_sample(tmp_path: Path, seed: int) -> None:
    folder = ARCHITECTURES["llama"].write(tmp_path, seed)
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((2000, 512)).astype(np.float32) * rng.uniform(0.5, 2, (2000, 1))
    edit(folder, lambda t: t.update({"model.embed_tokens.weight": weight.astype(np.float32)}))
    estimate = read(folder).norm("model.embed_tokens.weight")
    assert estimate == pytest.approx(float(np.linalg.norm(weight)), rel=0.1)
