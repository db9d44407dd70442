"""What the installed plugin adds to `pytest --co`: paired runs, with it and with it blocked.

    python benchmarks/startup.py [--runs 31]

The target is 15 ms. Runs alternate, so that a machine that slows down slows both alike. Bytecode is
cached, as it is for an installed package.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_plain.py").write_text("def test_plain():\n    pass\n")
        collect(folder, blocked=True), collect(folder, blocked=False)  # warm the page cache
        pairs = [
            (collect(folder, blocked=False), collect(folder, blocked=True)) for _ in range(runs)
        ]
    with_plugin, without = (statistics.median(side) for side in zip(*pairs, strict=True))
    added = statistics.median(a - b for a, b in pairs)
    print(f"with {with_plugin * 1e3:.0f} ms, without {without * 1e3:.0f} ms, {runs} paired runs")
    print(f"median of the paired differences: {added * 1e3:.1f} ms (target 15 ms)")


def collect(folder: str, *, blocked: bool) -> float:
    """Wall seconds of one `pytest --co`."""
    command = [sys.executable, "-m", "pytest", "--co", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "no:mergegate"] if blocked else []
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([*command, folder], check=True, capture_output=True, cwd=folder, env=environment)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
