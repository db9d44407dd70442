"""Time and memory of preflight alone on many adapters of a 7B-shaped base.

    python benchmarks/preflight.py [--adapters 64] [--rank 16] [--all-linear] [--runs 5]

The base is sparse files with the header of Llama 2 7B (13.5 GB in name, nothing on disk); the
adapters are random bfloat16 LoRAs on q_proj and v_proj, or on every linear layer. Each run is a
fresh process; the first one of a round has no memo of content hashes, the second has. Printed:
medians of seconds and of the peak of resident memory. An import of torch ends it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pools import LLAMA_2_7B, write_adapter, write_holes

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
        write_holes(folder / "base", LLAMA_2_7B)
        modules = tuple(LLAMA_2_7B.linear) if chosen.all_linear else FEW
        for k in range(chosen.adapters):
            adapter = folder / "adapters" / f"a{k:02}"
            write_adapter(adapter, LLAMA_2_7B, modules, chosen.rank, k)
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
