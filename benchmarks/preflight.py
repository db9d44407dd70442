"""Time and memory of preflight alone on many adapters of a 7B-shaped base.

    python benchmarks/preflight.py [--adapters 64] [--rank 16] [--runs 5] [--folder DIR]

The base is sparse files with the header of Llama 2 7B (13.5 GB in name, nothing on disk); the
adapters are random bfloat16 LoRAs on q_proj and v_proj. Each run is a fresh process; the first one
of a round has no memo of content hashes, the second has. Printed: medians of seconds and of the
peak of resident memory, and whether torch was imported.
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

import numpy as np

HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY = 4096, 11008, 32, 32000
_RUN = """
import resource, sys, time
start = time.perf_counter()
from pytest_mergegate.cli import main
code = main(["check", "--stage", "preflight", sys.argv[1]])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("RESULT", code, seconds, peak, "torch" in sys.modules)
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
    """A checkpoint with the shapes of Llama 2 7B; its numbers are holes, but for a few."""
    folder.mkdir(parents=True)
    layer = {
        **{f"self_attn.{p}_proj.weight": (HIDDEN, HIDDEN) for p in "qkvo"},
        **{f"mlp.{p}_proj.weight": (INTERMEDIATE, HIDDEN) for p in ("gate", "up")},
        "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
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


def write_adapter(folder: Path, rank: int, seed: int) -> None:
    """A random LoRA on q_proj and v_proj."""
    folder.mkdir(parents=True)
    shapes = {}
    for k in range(LAYERS):
        for projection in ("q_proj", "v_proj"):
            module = f"base_model.model.model.layers.{k}.self_attn.{projection}"
            shapes[f"{module}.lora_A.weight"] = (rank, HIDDEN)
            shapes[f"{module}.lora_B.weight"] = (HIDDEN, rank)
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
        "target_modules": ["q_proj", "v_proj"],
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
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary) / "pool"
        if not folder.exists():
            write_base(folder / "base")
            for k in range(chosen.adapters):
                write_adapter(folder / "adapters" / f"a{k:02}", chosen.rank, k)
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
