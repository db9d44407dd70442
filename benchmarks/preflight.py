"""Time and memory of preflight alone on many adapters of a 7B-shaped base.

    python benchmarks/preflight.py [--adapters 64] [--rank 16] [--all-linear] [--runs 5]

The base is sparse files with the header of Llama 2 7B (13.5 GB in name, nothing on disk); the
adapters are random bfloat16 LoRAs on q_proj and v_proj, or on every linear layer. Each run is a
fresh process; the first one of a round has no memo of content hashes, the second has. Printed:
medians of seconds and of the peak of resident memory. An import of torch ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY = 4096, 11008, 32, 32000
LINEAR = {
    **{f"self_attn.{p}_proj": (HIDDEN, HIDDEN) for p in "qkvo"},
    **{f"mlp.{p}_proj": (INTERMEDIATE, HIDDEN) for p in ("gate", "up")},
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
FEW = ("self_attn.q_proj", "self_attn.v_proj")
_RUN = """
import sys, time
start = time.perf_counter()
from pytest_mergegate.cli import main
code = main(["check", "--stage", "preflight", sys.argv[1]])
seconds = time.perf_counter() - start
# not getrusage: its peak begins with that of the process that started this one
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print("RESULT", code, seconds, int(peak) / 1024, "torch" in sys.modules)
"""


def write_header(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Write a safetensors header for bfloat16 tensors; returns where their bytes begin."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + offset)
    return 8 + len(text)


def write_base(folder: Path) -> None:
    """A checkpoint with the shapes of Llama 2 7B; its numbers are holes."""
    folder.mkdir(parents=True)
    layer = {
        **{f"{module}.weight": shape for module, shape in LINEAR.items()},
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for k in range(LAYERS):
        shapes |= {f"model.layers.{k}.{name}": shape for name, shape in layer.items()}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    write_header(folder / "model.safetensors", shapes)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_adapter(folder: Path, modules: Iterable[str], rank: int, seed: int) -> None:
    """A random LoRA on ``modules`` of every layer."""
    folder.mkdir(parents=True)
    shapes = {}
    for k in range(LAYERS):
        for name in modules:
            module = f"base_model.model.model.layers.{k}.{name}"
            shapes[f"{module}.lora_A.weight"] = (rank, LINEAR[name][1])
            shapes[f"{module}.lora_B.weight"] = (LINEAR[name][0], rank)
    path = folder / "adapter_model.safetensors"
    start = write_header(path, shapes)
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    numbers = np.random.default_rng(seed).standard_normal(count, dtype=np.float32) * 0.01
    with path.open("r+b") as file:
        file.seek(start)
        file.write((numbers.view(np.uint32) >> 16).astype("<u2").tobytes())
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [name.split(".")[-1] for name in modules],
        "task_type": "CAUSAL_LM",
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def run(gate: Path, cache: Path) -> tuple[float, float]:
    """Seconds inside the process and its peak of resident memory in MiB."""
    out = subprocess.run(
        [sys.executable, "-c", _RUN, str(gate)],
        capture_output=True,
        text=True,
        env={**os.environ, "MERGEGATE_CACHE": str(cache)},
        check=True,
    ).stdout
    line = next(line for line in out.splitlines() if line.startswith("RESULT"))
    _, code, seconds, peak, torch = line.split()
    if torch == "True":
        raise SystemExit("preflight imported torch")
    if code not in ("0", "1"):
        raise SystemExit(out)
    return float(seconds), float(peak)


def main() -> None:
    """Write the pool, run both ways, print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--all-linear", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pool"
        write_base(folder / "base")
        modules = tuple(LINEAR) if chosen.all_linear else FEW
        for k in range(chosen.adapters):
            write_adapter(folder / "adapters" / f"a{k:02}", modules, chosen.rank, k)
        (folder / "mergegate.yaml").write_text('base: base\nexperts: "adapters/*"\n')
        time.sleep(2.1)  # files of this very moment are never remembered
        results: dict[str, list[tuple[float, float]]] = {"no memo": [], "memo": []}
        for _ in range(chosen.runs):
            cache = Path(temporary) / "cache"
            shutil.rmtree(cache, ignore_errors=True)
            for name in results:
                results[name].append(run(folder / "mergegate.yaml", cache))
        for name, found in results.items():
            seconds, peaks = zip(*found, strict=True)
            print(
                f"{name:8} {statistics.median(seconds):6.2f} s  {statistics.median(peaks):6.0f} MiB"
            )


if __name__ == "__main__":
    main()
