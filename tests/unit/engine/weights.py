"""Tiny random pools written tensor by tensor, and their conflicts the slow way: from the files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.pool import Pool, read_pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Tensors = dict[str, torch.Tensor]

PREFIX = "base_model.model."
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TINY = {"F64": 1e-300, "F32": 1e-43, "F16": 6e-8, "BF16": 2e-40}
"""Denormals, but of float64: products of those are rounded in as many ways as there are orders."""
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
WEIGHTS = {"base": "model.safetensors", "adapter": "adapter_model.safetensors"}


class Files:
    """The folder of a gate: a base, and experts as they are added."""

    def __init__(self, folder: Path, rng: np.random.Generator, **config: Any) -> None:
        self.folder, self.rng = folder, rng
        self.config: dict[str, Any] = LLAMA | config
        self.names: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def write_base(self, shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> None:
        """A random base of these parameters."""
        self.shapes = dict(shapes)
        save_model(
            self.folder / "base", {n: self.draw(s, dtype) for n, s in shapes.items()}, self.config
        )

    def draw(self, shape: Iterable[int], dtype: str = "F32", zeros: float = 0.0) -> torch.Tensor:
        """Continuous numbers of one size, except for zeros of both signs and denormals."""
        rng, shape = self.rng, tuple(shape)
        numbers = np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-2, 2))
        for share, value in ((zeros, 0.0), (zeros / 4, -0.0), (zeros / 4, TINY[dtype])):
            small = value * rng.integers(-9, 10, size=shape) if value else value
            numbers = np.where(rng.random(shape) < share, small, numbers)
        return torch.from_numpy(numbers).to(DTYPES[dtype])

    def write_lora(
        self,
        name: str,
        modules: Mapping[str, int],
        dtype: str = "F32",
        zeros: float = 0.0,
        **config: Any,
    ) -> None:
        """A random adapter: rank by module."""
        tensors = {}
        for module, rank in modules.items():
            rows, columns = self.shapes[f"{module}.weight"]
            tensors[f"{module}.lora_A.weight"] = self.draw((rank, columns), dtype, zeros)
            tensors[f"{module}.lora_B.weight"] = self.draw((rows, rank), dtype, zeros)
        self.save_adapter(name, tensors, rank_pattern=dict(modules), **config)

    def save_adapter(self, name: str, tensors: Tensors, **config: Any) -> None:
        """An adapter of ``tensors``, named without PEFT's prefix."""
        settings = {
            "peft_type": "LORA",
            "base_model_name_or_path": "base",
            "r": 1,
            "lora_alpha": 4,
            "target_modules": ["q_proj"],
        }
        folder = self._added(name)
        save_file({PREFIX + key: tensor for key, tensor in tensors.items()}, self.file(name))
        (folder / "adapter_config.json").write_text(json.dumps(settings | config))

    def write_checkpoint(
        self, name: str, dtype: str = "F32", unchanged: float = 0.0, *, shards: int = 1
    ) -> None:
        """The base with most numbers moved; ``unchanged`` is the share of tensors that are not."""
        tensors = {}
        for key, weight in load_file(self.file("base")).items():
            moved = weight.double() + 0.1 * self.draw(weight.shape, zeros=self.rng.random())
            own = weight if self.rng.random() < unchanged else moved
            tensors[key] = own.to(DTYPES[dtype])
        self.save_checkpoint(name, tensors, shards=shards)

    def save_checkpoint(self, name: str, tensors: Tensors, *, shards: int = 1) -> None:
        """A checkpoint of ``tensors``, in one file or several."""
        save_model(self._added(name), tensors, self.config, shards)

    def _added(self, name: str) -> Path:
        (self.folder / name).mkdir()
        self.names.append(name)
        return self.folder / name

    def file(self, name: str) -> Path:
        """The one file with an adapter's, a checkpoint's or the base's tensors."""
        single = self.folder / name / WEIGHTS["base"]
        return single if single.exists() else self.folder / name / WEIGHTS["adapter"]

    def pool(self, names: Iterable[str] | None = None, **gate: Any) -> Pool:
        """What a gate of these experts reads."""
        experts = {name: name for name in names or self.names}
        settings = {"base": "base", "experts": experts} | gate
        pool, errors = read_pool(gate_from(settings, root=self.folder, budget={}))
        assert pool is not None, errors
        return pool


def save_model(folder: Path, tensors: Tensors, config: dict[str, Any], shards: int = 1) -> None:
    """A full checkpoint as save_pretrained leaves it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    weight_map = {}
    for k in range(shards):
        part = dict(list(tensors.items())[k::shards])
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


# The slow way


@dataclass(frozen=True, kw_only=True)
class Naive:
    """Ratios of every pair, NaN where undefined."""

    pairs: dict[tuple[str, str], dict[str, float]]
    layers: dict[str, dict[tuple[str, str], dict[str, float]]]
    tensors: dict[str, dict[tuple[str, str], dict[str, float]]]
    norms: dict[str, float]


def naive_conflicts(folder: Path, names: Iterable[str]) -> Naive:
    """Read from the files, dense and in float64, pair by pair."""
    base = in_float64(folder / "base")
    vectors = {name: task_vector(folder / name, base) for name in names}
    total = sum(tensor.size for tensor in base.values())
    parameters = sorted({p for vector in vectors.values() for p in vector})
    layers: dict[str, list[str]] = {}
    for parameter in parameters:
        parts = parameter.split(".")
        where = next((k for k, part in enumerate(parts) if part.isdigit()), len(parts) - 2)
        layers.setdefault(".".join(parts[: where + 1]), []).append(parameter)

    def pairs(members: list[str]) -> dict[tuple[str, str], dict[str, float]]:
        return {
            (a, b): ratios(vectors[a], vectors[b], members, total)
            for a, b in combinations(vectors, 2)
        }

    return Naive(
        pairs=pairs(parameters),
        layers={layer: pairs(members) for layer, members in layers.items()},
        tensors={parameter: pairs([parameter]) for parameter in parameters},
        norms={
            name: float(np.sqrt(sum((tensor**2).sum() for tensor in vector.values())))
            for name, vector in vectors.items()
        },
    )


def ratios(
    one: dict[str, Array], other: dict[str, Array], parameters: Iterable[str], total: int
) -> dict[str, float]:
    """THEORY 2, over those of ``parameters`` that one of the two may change."""
    found, cosines = [], []
    for parameter in parameters:
        a, b = one.get(parameter), other.get(parameter)
        if a is not None or b is not None:
            a = np.zeros_like(b) if a is None else a
            b = np.zeros_like(a) if b is None else b
            found.append((a.ravel(), b.ravel()))
            cosines.append(cosine(*found[-1]))
    if not found:
        return dict.fromkeys(RATIOS, np.nan)
    a, b = (np.concatenate(side) for side in zip(*found, strict=True))
    size, apart = np.abs(a).sum() + np.abs(b).sum(), np.abs(a - b)
    changed = np.sign(a) != np.sign(b)
    known = [number for number in cosines if not np.isnan(number)]
    numbers = (
        apart.sum() / size if size else np.nan,
        changed.mean() if size else np.nan,
        changed.sum() / total if size else np.nan,
        apart[changed].sum() / size if size else np.nan,
        cosine(a, b),
        np.mean(known) if known else np.nan,
    )
    return dict(zip(RATIOS, map(float, numbers), strict=True))


RATIOS = (
    "magnitude_change_ratio",
    "sign_change_ratio",
    "sign_change_ratio_of_base",
    "conflicting_magnitude_ratio",
    "cosine",
    "cosine_mean",
)


def cosine(a: Array, b: Array) -> float:
    """NaN where one is zero."""
    norms = np.sqrt(a @ a) * np.sqrt(b @ b)
    return float(a @ b / norms) if norms > 0 else np.nan


def in_float64(folder: Path) -> dict[str, Array]:
    """All tensors of a folder."""
    found: dict[str, Array] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {key: tensor.double().numpy() for key, tensor in load_file(file).items()}
    return found


def task_vector(folder: Path, base: dict[str, Array]) -> dict[str, Array]:
    """τ by parameter."""
    tensors = in_float64(folder)
    config_file = folder / "adapter_config.json"
    if not config_file.exists():
        return {key: tensor - base[key] for key, tensor in tensors.items()}
    config = json.loads(config_file.read_text())
    plain = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    found: dict[str, Array] = {}
    for key, tensor in plain.items():
        module, _, part = key.partition(".lora_")
        if part == "A.weight":
            found[f"{module}.weight"] = adapted(module, plain, config, base)
        elif part == "embedding_A":
            product = plain[f"{module}.lora_embedding_B"] @ tensor
            found[f"{module}.weight"] = scale_of(module, len(tensor), config) * product.T
        elif part == "B.bias":
            rank = len(plain[f"{module}.lora_A.weight"])
            found[f"{module}.bias"] = scale_of(module, rank, config) * tensor
        elif key.endswith(".token_adapter.trainable_tokens_delta"):
            parameter = key.replace(".token_adapter.trainable_tokens_delta", ".weight")
            rows = config["trainable_token_indices"]
            found[parameter] = np.zeros_like(base[parameter])
            found[parameter][rows] = tensor - base[parameter][rows]
        elif not part:
            found[key] = tensor - base[key]
    return found


def adapted(
    module: str, tensors: dict[str, Array], config: dict[str, Any], base: dict[str, Array]
) -> Array:
    """scale · B A, in the shape of the weight; under DoRA its rows are brought to a length."""
    a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
    delta: Array = scale_of(module, len(a), config) * (b @ a)
    weight = base[f"{module}.weight"]
    transposed = module.endswith(("c_attn", "c_proj"))  # GPT-2 stores [inputs, outputs]
    weight = weight.T if transposed else weight
    lengths = tensors.get(f"{module}.lora_magnitude_vector")
    if lengths is not None:
        moved = weight + delta
        norms = np.sqrt(np.square(moved).sum(axis=1))
        delta = (lengths / norms)[:, np.newaxis] * moved - weight
    return delta.T if transposed else delta


def scale_of(module: str, rank: int, config: dict[str, Any]) -> float:
    """α/r, or α/√r."""
    alpha = config.get("alpha_pattern", {}).get(module, config["lora_alpha"])
    return float(alpha / (np.sqrt(rank) if config.get("use_rslora") else rank))
