"""Pools to measure on: random numbers in the shapes of known models, written without torch."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_mergegate.pool.pool import Pool

    Sizes = dict[str, tuple[int, ...]]

CHUNK = 1 << 22
"""Random numbers written at a time."""
SHARD = 200_000_000
"""Bytes in one file of a checkpoint, about."""
RANK, SCALE = 16, 2
"""r of a LoRA, and lora_alpha / r."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model in the manner of Llama."""

    hidden: int
    key_value: int
    """Outputs of k_proj and of v_proj."""
    intermediate: int
    layers: int
    vocabulary: int = 32000

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear modules of one layer."""
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (self.key_value, self.hidden),
            "self_attn.v_proj": (self.key_value, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    @property
    def parameters(self) -> Sizes:
        """The shape of every parameter."""
        layer: Sizes = {
            **{f"{module}.weight": shape for module, shape in self.linear.items()},
            "input_layernorm.weight": (self.hidden,),
            "post_attention_layernorm.weight": (self.hidden,),
        }
        vocabulary = (self.vocabulary, self.hidden)
        shapes: Sizes = {"model.embed_tokens.weight": vocabulary}
        for k in range(self.layers):
            shapes |= {f"model.layers.{k}.{name}": shape for name, shape in layer.items()}
        return shapes | {"model.norm.weight": (self.hidden,), "lm_head.weight": vocabulary}


LLAMA_2_7B = Shape(hidden=4096, key_value=4096, intermediate=11008, layers=32)
MISTRAL_7B = Shape(hidden=4096, key_value=1024, intermediate=14336, layers=32)
SMALL = Shape(hidden=1024, key_value=1024, intermediate=2816, layers=24)
"""0.37 billion parameters."""


def loras_of(folder: Path, modules: Sequence[str], layers: int, count: int) -> Pool:
    """As many LoRAs on some modules of a Mistral 7B of as many layers."""
    shape = replace(MISTRAL_7B, layers=layers)
    root = folder / f"lora-{len(modules)}-{layers}"
    _once(root / "base", lambda path: write_holes(path, shape))
    for k in range(count):
        _once(root / f"e{k}", lambda path, k=k: write_adapter(path, shape, modules, RANK, k))
    return read(root, count)


def checkpoints_of(folder: Path, layers: int) -> Path:
    """A folder with a base, four checkpoints of as many layers and a gate file."""
    shape = replace(SMALL, layers=layers)
    root = _once(folder / f"full-{layers}", lambda path: write_checkpoints(path, shape, 4))
    budget = "budget: {max_magnitude_change_ratio: 0.99}"
    (root / "mergegate.yaml").write_text(f'base: base\nexperts: "e*"\n{budget}\n')
    time.sleep(2.1)  # the hashes of files of this very moment are never remembered
    return root


def read(root: Path, count: int) -> Pool:
    """The pool of a folder's base and its first experts."""
    experts = {f"e{k}": f"e{k}" for k in range(count)}
    pool, errors = read_pool(gate_from({"base": "base", "experts": experts}, root=root))
    if pool is None:
        raise SystemExit("\n".join(map(str, errors)))
    return pool


def elements(pool: Pool) -> int:
    """Numbers in one task vector."""
    return sum(pool.base.tensors[name].size for name in pool.experts[0].changes)


def files_of(pool: Pool, *, base: bool = True) -> list[Path]:
    """The weights of the experts, and of the base."""
    holders = (*pool.experts, pool.base) if base else pool.experts
    return [file for holder in holders for file in holder.tensors.files]


def stored_bytes(pool: Pool, *, base: bool = True) -> int:
    """Of all these files."""
    return sum(file.stat().st_size for file in files_of(pool, base=base))


def _once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Have ``folder`` written, unless it is there; what was broken off is written again."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished)
        unfinished.rename(folder)
    return folder


def write_holes(folder: Path, shape: Shape) -> None:
    """A base whose numbers are holes: gigabytes in name, nothing on disk."""
    folder.mkdir(parents=True)
    _write_header(folder / "model.safetensors", shape.parameters)
    _write_config(folder, shape)


def write_adapter(folder: Path, shape: Shape, modules: Iterable[str], rank: int, seed: int) -> None:
    """A random bfloat16 LoRA on ``modules`` of every layer."""
    folder.mkdir(parents=True)
    shapes: Sizes = {}
    for k in range(shape.layers):
        for name in modules:
            rows, columns = shape.linear[name]
            module = f"base_model.model.model.layers.{k}.{name}"
            shapes[f"{module}.lora_A.weight"] = (rank, columns)
            shapes[f"{module}.lora_B.weight"] = (rows, rank)
    path = folder / "adapter_model.safetensors"
    start = _write_header(path, shapes)
    count = sum(map(math.prod, shapes.values()))
    numbers = np.random.default_rng(seed).standard_normal(count, dtype=np.float32) * 0.01
    with path.open("r+b") as file:
        file.seek(start)
        file.write(_bfloat16(numbers).tobytes())
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": SCALE * rank,
        "target_modules": [name.split(".")[-1] for name in modules],
        "task_type": "CAUSAL_LM",
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_checkpoints(folder: Path, shape: Shape, experts: int) -> None:
    """``base`` of normal(0, 0.02), its norms ones, and ``e0``, ``e1``, ... of base + normal(0,
    0.001), in bfloat16 and in shards."""
    names = ["base", *(f"e{k}" for k in range(experts))]
    shards = list(_shards(shape.parameters))
    files = [f"model-{k + 1:05}-of-{len(shards):05}.safetensors" for k in range(len(shards))]
    index = {
        "metadata": {"total_size": sum(_bytes(shapes) for shapes in shards)},
        "weight_map": {key: f for f, shapes in zip(files, shards, strict=True) for key in shapes},
    }
    for name in names:
        (folder / name).mkdir(parents=True)
        _write_config(folder / name, shape)
        (folder / name / "model.safetensors.index.json").write_text(json.dumps(index))
    normals = _Normals()
    for file, shapes in zip(files, shards, strict=True):
        paths = [folder / name / file for name in names]
        starts = [_write_header(path, shapes) for path in paths]
        with ExitStack() as opened:
            outs = [opened.enter_context(path.open("r+b")) for path in paths]
            for out, start in zip(outs, starts, strict=True):
                out.seek(start)
            for numbers in _chunks(shapes, normals):
                base = _bfloat16(numbers)
                outs[0].write(base.tobytes())
                own = (base.astype(np.uint32) << 16).view(np.float32)
                for out in outs[1:]:
                    out.write(_bfloat16(own + 0.001 * normals.take(own.size)).tobytes())


class _Normals:
    """Normal random numbers: drawn once, then taken from random places among them."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._drawn = self._random.standard_normal(4 * CHUNK, dtype=np.float32)

    def take(self, count: int) -> NDArray[np.float32]:
        start = int(self._random.integers(len(self._drawn) - count + 1))
        return self._drawn[start : start + count]


def _chunks(shapes: Sizes, normals: _Normals) -> Iterator[NDArray[np.float32]]:
    """The base's numbers, tensor by tensor."""
    for shape in shapes.values():
        left = math.prod(shape)
        while left > 0:
            count = min(left, CHUNK)
            yield np.ones(count, np.float32) if len(shape) == 1 else 0.02 * normals.take(count)
            left -= count


def _shards(shapes: Sizes) -> Iterator[Sizes]:
    shard: Sizes = {}
    for name, shape in shapes.items():
        shard[name] = shape
        if _bytes(shard) > SHARD:
            yield shard
            shard = {}
    if shard:
        yield shard


def _bytes(shapes: Sizes) -> int:
    return 2 * sum(map(math.prod, shapes.values()))


def _bfloat16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to nearest, ties away from zero."""
    return ((numbers.view(np.uint32) + 0x8000) >> 16).astype("<u2")


def _write_header(path: Path, shapes: Sizes) -> int:
    """Write a safetensors header for bfloat16 tensors; returns where their bytes begin."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + offset)
    return 8 + len(text)


def _write_config(folder: Path, shape: Shape) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
