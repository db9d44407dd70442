"""A base larger than the memory that is left: read layer by layer, with the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pools import Adapter, read_gate, write_adapter, write_base, write_gate, write_jsonl, write_pool
from warm import commands

from pytest_mergegate import assess
from pytest_mergegate.engine.models import placement

if TYPE_CHECKING:
    from pathlib import Path

LIMITED = """
import json, resource, sys
import torch
from pytest_mergegate import assess
from pathlib import Path
from pytest_mergegate.common.machine import _kilobytes

assess(sys.argv[3], cache=False)  # imports and compiles, which is not the base's doing
limit = _kilobytes(Path("/proc/self/status"), "VmData", 0) + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(assess(sys.argv[1], cache=False).to_json(None))
"""


def _numbers(report: dict[str, object]) -> list[float]:
    found: list[float] = []

    def collect(part: object) -> None:
        if isinstance(part, dict):
            for key, value in part.items():
                if key not in {"seconds", "tokens", "created"}:
                    collect(value)
        elif isinstance(part, list):
            for value in part:
                collect(value)
        elif isinstance(part, float):
            found.append(part)

    collect({key: report[key] for key in ("experts", "pairs", "bounds", "forecasts", "merges")})
    return found


@pytest.mark.parametrize("tied", [False, True])
def test_a_small_base_read_layer_by_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, tied: bool
) -> None:
    gate = write_pool(tmp_path, seed)
    write_base(tmp_path / "base", seed, tie_word_embeddings=tied)
    settings = read_gate(gate) | {"budget": {"max_mds": 1.0, "max_disagreement": 0}}
    settings["experts"]["b"]["compare"] = "rouge_l"
    gate = write_gate(gate, settings)
    whole = json.loads(assess(gate, cache=False).to_json(None))
    monkeypatch.setattr(placement, "available", lambda _: 0)
    offloaded = json.loads(assess(gate, cache=False).to_json(None))
    assert whole["status"] == offloaded["status"] == "fail"
    np.testing.assert_allclose(_numbers(offloaded), _numbers(whole), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA is Linux's")
def test_a_base_larger_than_the_limit(tmp_path: Path, tiny_pool: Path, seed: int) -> None:
    big = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24}
    base = write_base(tmp_path / "base", seed, **big, initializer_range=0.05)
    for k, name in enumerate("abc"):
        write_adapter(base, tmp_path / name, seed + k, Adapter())
        rows = [{"input": f"{name}{letter}="} for letter in "abcdefgh"]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    gate = write_gate(
        tmp_path / "mergegate.yaml",
        {
            "base": "base",
            "experts": {n: {"path": n, "examples": f"{n}.jsonl"} for n in "abc"},
            "probes": {"max_answer_tokens": 3},
            "budget": {"max_mds": 1000.0},
        },
    )
    size = (base / "model.safetensors").stat().st_size
    room = size * 2 // 3
    whole = json.loads(assess(gate, cache=False).to_json(None))
    command = [commands() / "python", "-c", LIMITED, str(gate), str(room), str(tiny_pool)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    limited = json.loads(done.stdout.splitlines()[-1])
    assert limited["status"] == whole["status"], [f["message"] for f in limited["findings"]]
    np.testing.assert_allclose(_numbers(limited), _numbers(whole), rtol=1e-4, atol=1e-7)
