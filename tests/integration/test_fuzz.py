"""Damaged adapters end in an error, a finding, or numbers that are right for what is stored."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pools import Adapter, read_gate, write_gate, write_pool
from safetensors.numpy import load_file, save_file

from pytest_mergegate import assess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_mergegate.report.types import Report

ROUNDS = int(os.environ.get("MERGEGATE_FUZZ", "1000"))
SHARES = 8
"""Parts of the rounds, one test each, so that workers share them."""
Tensors = dict[str, np.ndarray]
Rng = np.random.Generator


def pick(tensors: Tensors, rng: Rng) -> str:
    return str(rng.choice(sorted(tensors)))


def truncate(file: Path, rng: Rng) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(rng.integers(0, len(data)))])


def flip_bytes(file: Path, rng: Rng) -> None:
    data = bytearray(file.read_bytes())
    for place in rng.integers(0, len(data), size=int(rng.integers(1, 9))):
        data[place] ^= int(rng.integers(1, 256))
    file.write_bytes(data)


def flip_header(file: Path, rng: Rng) -> None:
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    for place in rng.integers(0, 8 + length, size=int(rng.integers(1, 4))):
        data[place] ^= int(rng.integers(1, 256))
    file.write_bytes(data)


def append(file: Path, rng: Rng) -> None:
    with file.open("ab") as out:
        out.write(rng.bytes(int(rng.integers(1, 100))))


def flip_config(file: Path, rng: Rng) -> None:
    flip_bytes(file.with_name("adapter_config.json"), rng)


def rewritten(change: Callable[[Tensors, Rng], None]) -> Callable[[Path, Rng], None]:
    def corrupt(file: Path, rng: Rng) -> None:
        tensors = load_file(file)
        change(tensors, rng)
        save_file(tensors, file, metadata={"format": "pt"})

    corrupt.__name__ = change.__name__
    return corrupt


def swap(tensors: Tensors, rng: Rng) -> None:
    a, b = pick(tensors, rng), pick(tensors, rng)
    tensors[a], tensors[b] = tensors[b], tensors[a]


def rename(tensors: Tensors, rng: Rng) -> None:
    name = pick(tensors, rng)
    letters = list(name)
    letters[int(rng.integers(0, len(letters)))] = str(rng.choice(list("abqz.0_A")))
    tensors["".join(letters)] = tensors.pop(name)


def drop_prefix(tensors: Tensors, rng: Rng) -> None:
    parts = int(rng.integers(1, 4))
    for name in list(tensors):
        tensors[name.split(".", parts)[-1]] = tensors.pop(name)


def remove(tensors: Tensors, rng: Rng) -> None:
    del tensors[pick(tensors, rng)]


def poison(tensors: Tensors, rng: Rng) -> None:
    flat = tensors[pick(tensors, rng)].reshape(-1)
    flat[int(rng.integers(0, flat.size))] = rng.choice([np.nan, np.inf, -np.inf])


def enlarge(tensors: Tensors, rng: Rng) -> None:
    tensors[pick(tensors, rng)] *= np.float32(10.0 ** rng.integers(3, 38))


def zero(tensors: Tensors, rng: Rng) -> None:
    tensors[pick(tensors, rng)][:] = 0


def reshape(tensors: Tensors, rng: Rng) -> None:
    name = pick(tensors, rng)
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def narrow(tensors: Tensors, rng: Rng) -> None:
    name = pick(tensors, rng)
    tensors[name] = tensors[name].astype(rng.choice(["float16", "float64", "int32", "uint8"]))


def setting(file: Path, rng: Rng) -> None:
    config_file = file.with_name("adapter_config.json")
    config = json.loads(config_file.read_text())
    # fmt: off
    key = str(rng.choice(["r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern",
                          "alpha_pattern", "peft_type", "modules_to_save", "use_dora", "bias",
                          "init_lora_weights", "exclude_modules", "layers_to_transform"]))
    # fmt: on
    values = [None, True, 0, -3, 7, 1e308, "q_proj", "(", [], ["k_proj", 3], {"q_proj": 2}, {"": 1}]
    config[key] = values[int(rng.integers(0, len(values)))]
    config_file.write_text(json.dumps(config))


CORRUPTIONS = [
    truncate,
    flip_bytes,
    flip_header,
    append,
    flip_config,
    setting,
    *map(rewritten, (swap, rename, drop_prefix, remove, poison, enlarge, zero, reshape, narrow)),
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    attention = Adapter(examples=None, lora={"target_modules": ["q_proj", "v_proj"], "r": 3})
    everything = Adapter(examples=None)
    folder = tmp_path_factory.mktemp("fuzz")
    return write_pool(folder, seed, {"a": attention, "b": everything})


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_a_damaged_adapter_is_refused_or_its_numbers_are_right(
    pool: Path, tmp_path: Path, seed: int, share: int
) -> None:
    limits = {f"max_{n}_ratio": 1.0 for n in ("magnitude_change", "sign_change")}
    passed = refused = 0
    for k in range(share, ROUNDS, SHARES):
        rng = np.random.default_rng([seed, k])
        corrupt = CORRUPTIONS[k % len(CORRUPTIONS)]
        folder = tmp_path / str(k)
        shutil.copytree(pool.parent / "adapters", folder / "adapters")
        (folder / "base").symlink_to(pool.parent / "base")
        write_gate(folder / pool.name, read_gate(pool) | {"budget": limits})
        name = "ab"[int(rng.integers(0, 2))]
        corrupt(folder / "adapters" / name / "adapter_model.safetensors", rng)
        report = assess(folder / pool.name)
        told = f"{corrupt.__name__}, round {k}"
        if report.status == "pass":
            check_numbers(report, folder / "adapters", told)
            passed += 1
        else:
            assert report.status in {"error", "inconclusive"}, told
            codes = {finding.code for finding in report.findings}
            assert codes, told
            assert "MG900" not in codes, (told, report.findings)
            assert all(f.message for f in report.findings), told
            refused += 1
        shutil.rmtree(folder)
    assert passed > 0
    assert refused > passed


def check_numbers(report: Report, adapters: Path, told: str) -> None:
    """Every number of the conflict stage, from what the files now hold."""
    found = {name: task_vector(adapters / name) for name in ("a", "b")}
    for pair, (first, second) in zip(report.pairs, combinations("ab", 2), strict=True):
        assert (pair.a, pair.b) == (first, second)
        modules = sorted(set(found[first]) | set(found[second]))
        a, b = (flat(found[name], found, modules) for name in (first, second))
        total = np.abs(a).sum() + np.abs(b).sum()
        changed = np.sign(a) != np.sign(b)
        expected = {
            "magnitude_change_ratio": np.abs(a - b).sum() / total,
            "sign_change_ratio": changed.mean(),
            "conflicting_magnitude_ratio": np.abs(a - b)[changed].sum() / total,
            "cosine": a @ b / np.sqrt((a @ a) * (b @ b)),
        }
        for key, value in expected.items():
            assert getattr(pair, key) == pytest.approx(value, rel=1e-4, abs=1e-6), (told, key)


def task_vector(adapter: Path) -> dict[str, np.ndarray]:
    """s·B·A of every module by the definition, as PEFT's documentation gives it."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
    tensors = {
        k: v.astype(np.float64) for k, v in load_file(adapter / "adapter_model.safetensors").items()
    }
    alphas = config.get("alpha_pattern") or {}
    found = {}
    for key, a in tensors.items():
        if ".lora_A." in key:
            # a prefix that is missing from all names is read as if it were there
            module = re.sub(r"^(base_model\.)?(model\.)*", "model.", key).removesuffix(
                ".lora_A.weight"
            )
            alpha = next(
                (v for n, v in alphas.items() if re.match(rf"(.*\.)?({n})$", module)),
                config["lora_alpha"],
            )
            rank = a.shape[0]
            scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            found[module] = scale * tensors[key.replace("lora_A", "lora_B")] @ a
    return found


def flat(
    own: dict[str, np.ndarray], everyone: dict[str, dict[str, np.ndarray]], modules: list[str]
) -> np.ndarray:
    parts = []
    for module in modules:
        shape = next(found[module].shape for found in everyone.values() if module in found)
        parts.append(own.get(module, np.zeros(shape)).ravel())
    return np.concatenate(parts)
