"""Seconds and bytes, measured side by side, and what this machine could do at best."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")
CORES = len(os.sched_getaffinity(0))
_LAUNCH = """
import os, sys, time
start, most = time.perf_counter(), 0
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
    with open(f"/proc/{child}/status") as file:
        own = [line.split()[1] for line in file if line.startswith("RssAnon")]
    most = max([most, *map(int, own)])
    time.sleep(0.005)
seconds, (_, status, usage) = time.perf_counter() - start, ended
print("RESULT", os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss / 1024, most / 1024)
"""
"""A small process to start others from: the peak of a child begins with that of its parent."""


@dataclass(frozen=True)
class Process:
    """What one process took."""

    seconds: float
    memory: tuple[float, float]
    """Peaks in MiB: of all resident memory, and of that without mapped files, seen every 5 ms."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Seconds that it says its parts took."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What all cores together reach in a second."""

    copied: float
    """Bytes."""
    multiplied: float
    """Multiplications with an addition, in float64."""
    hashed: float
    """Bytes, by SHA-256."""

    @classmethod
    def measured(cls) -> Machine:
        """Best of many, in a process where no setting keeps OpenBLAS from the widest registers."""
        settings = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        out = subprocess.check_output([sys.executable, __file__], env=settings, text=True)
        machine = cls(**json.loads(out))
        print(
            f"{CORES} cores: copy {machine.copied / 1e9:.1f} GB/s, SHA-256 "
            f"{machine.hashed / 1e9:.1f} GB/s, float64 products of matrices "
            f"{machine.multiplied / 1e9:.0f}e9 multiply-adds/s"
        )
        return machine

    @classmethod
    def here(cls) -> Machine:
        """The same in this process."""
        sources = np.array_split(np.ones(1 << 26), CORES)
        targets = np.array_split(np.zeros(1 << 26), CORES)
        matrix = np.random.default_rng(0).random((1024, 1024))
        with ThreadPoolExecutor(CORES) as threads:
            copy = _best(10, lambda: list(threads.map(np.copyto, targets, sources)))
            digest = _best(5, lambda: list(threads.map(hashlib.sha256, sources)))
        multiply = _best(50, lambda: matrix @ matrix)
        return cls(copied=2**29 / copy, multiplied=2**30 / multiply, hashed=2**29 / digest)


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _best(runs: int, work: Callable[[], object]) -> float:
    return min(seconds(work) for _ in range(runs))


def alternate(runs: int, *sides: Callable[[], T], files: Sequence[Path] = ()) -> list[list[T]]:
    """What each side returned, run by run; one after the other, so that slow spells hit all.

    ``files`` are read before each, so that they are in the page cache.
    """
    found: list[list[T]] = [[] for _ in sides]
    for _ in range(runs):
        for side, results in zip(sides, found, strict=True):
            cat(files)
            results.append(side())
    return found


def cat(files: Sequence[Path]) -> None:
    """Read files, and leave it at that."""
    subprocess.run(
        ["cat", *map(str, files)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
    )


def process(command: Sequence[str], folder: Path, settings: Mapping[str, str]) -> Process:
    """Run a command in ``folder`` with ``settings`` in its environment; it has to succeed."""
    found = subprocess.run(
        [sys.executable, "-c", _LAUNCH, *command],
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        cwd=folder,
    )
    *said, result = found.stdout.splitlines() or [""]
    if found.returncode or result.split()[1] != "0":
        raise SystemExit("\n".join([*said[-20:], result, found.stderr]))
    _, _, spent, peak, anonymous = result.split()
    return Process(float(spent), (float(peak), float(anonymous)))


def outcome(name: str, found: Sequence[float], floor: Mapping[str, float] | None = None) -> None:
    """Print the median, the range, and the floor with its parts."""
    median = statistics.median(found)
    print(f"{name:20} {median:8.3f} s ({min(found):.3f} to {max(found):.3f})", end="")
    if floor:
        least = sum(floor.values())
        parts = " + ".join(f"{part} {took:.3f}" for part, took in floor.items())
        print(f"; floor {least:.3f} s ({parts}), reached {median / least:.1f} times that", end="")
    print()


def ratio(name: str, above: Sequence[float], below: Sequence[float], target: str) -> None:
    """Print the median of the paired ratios."""
    found = statistics.median(a / b for a, b in zip(above, below, strict=True))
    print(f"{name}: {found:.2f} (median of {len(above)} pairs; target {target})")


if __name__ == "__main__":
    print(json.dumps(asdict(Machine.here())))
