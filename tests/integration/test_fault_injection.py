"""Runs that are killed, and caches that are spoilt, cost time and no numbers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pools import apart, write_pool
from reports import same
from warm import commands

from pytest_mergegate import assess
from pytest_mergegate.engine.running.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
KILLS = 30
POISONINGS = 60
PROCESSES = 4
NURSERY = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path

from pytest_mergegate import assess
from reports import same

gate, folder, log = map(Path, sys.argv[1:])
nursery = os.getpid()


class SlowFile:  # as on a disk that has much to do: half of what is written is there for a while
    def __init__(self, number):
        self.file = open(number, "wb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        time.sleep(0.005)
        self.file.write(data[len(data) // 2 :])


def plain(report):
    return json.loads(report.to_json())


def work(seed):
    rng = random.Random(seed)
    if seed % 2:
        real = os.fdopen
        os.fdopen = lambda number, *how, **more: (
            SlowFile(number) if how == ("wb",) else real(number, *how, **more)
        )
    while os.getppid() == nursery:
        for entry in folder.rglob("*.safetensors"):
            if rng.random() < 0.5:
                entry.unlink(missing_ok=True)
        report = plain(assess(gate, cache=folder))
        same(report, reference)
        assert report["findings"] == reference["findings"], report["findings"]
        with log.with_suffix(".runs").open("a") as file:
            file.write(".")


reference = plain(assess(gate, cache=False))  # and all is imported
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while line := sys.stdin.readline():
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        work(int(line))
    except BaseException:
        log.write_text(traceback.format_exc())
    os._exit(0)
"""


def plain(gate: Path, cache: Path | bool) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(assess(gate, cache=cache).to_json())
    return report


def told(report: dict[str, Any]) -> list[str]:
    return [f["message"] for f in report["findings"] if f["code"] == "MG501"]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    experts = apart("abcd")
    budget = {"max_mds": 1e9}
    return write_pool(tmp_path_factory.mktemp("pool"), seed, experts, budget=budget)


@pytest.fixture(scope="module")
def reference(gate: Path) -> dict[str, Any]:
    """What a run says that has no cache."""
    report = plain(gate, cache=False)
    assert report["status"] == "pass"
    return report


@pytest.fixture
def start(gate: Path, tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """Starts a process that gates the pool again and again; returns its id."""
    started: list[int] = []
    asked = (str(gate), str(tmp_path / "cache"), str(tmp_path / "log"))
    with subprocess.Popen(
        [commands() / "python", "-c", NURSERY, *asked],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)])},
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        assert nursery.stdout.readline() == "ready\n"

        def fork(seed: int) -> int:
            nursery.stdin.write(f"{seed}\n")
            nursery.stdin.flush()
            started.append(int(nursery.stdout.readline()))
            return started[-1]

        try:
            yield fork
        finally:  # children first: the nursery is their parent, and no id is given out again
            for pid in started:
                kill(pid)
            nursery.stdin.close()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(happens: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        time.sleep(0.001)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_runs_that_are_killed(
    gate: Path,
    reference: dict[str, Any],
    tmp_path: Path,
    start: Callable[[int], int],
    seed: int,
) -> None:
    rng = random.Random(seed)
    folder, log = tmp_path / "cache", tmp_path / "log"
    running = [start(k) for k in range(PROCESSES)]
    for number in range(KILLS):
        if number % 3:
            time.sleep(rng.uniform(0.0, 0.3))
            victims = [rng.randrange(PROCESSES)]
        else:  # while one of them writes
            wait_for(lambda: list(folder.rglob("*.part")))
            victims = [*range(PROCESSES)]
        for victim in victims:
            kill(running[victim])
        later = plain(gate, cache=folder)
        same(later, reference)
        assert told(later) == []
        for victim in victims:
            running[victim] = start(PROCESSES * (1 + number) + victim)
    for pid in running:
        kill(pid)
    assert not log.exists(), log.read_text("utf-8")
    assert len(log.with_suffix(".runs").read_text("utf-8")) > PROCESSES
    assert list(folder.rglob("*.part")), "no run was killed while it wrote"
    plain(gate, cache=folder)
    warm = plain(gate, cache=folder)
    assert warm["cache"]["misses"] == 0
    same(warm, reference)
    Cache(folder=folder).clear()
    assert not list(folder.rglob("*.part"))


def swap(entries: list[Path], rng: random.Random) -> None:
    one, other = rng.sample(entries, 2)
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])


def truncate(entries: list[Path], rng: random.Random) -> None:
    entry = rng.choice(entries)
    os.truncate(entry, rng.randrange(entry.stat().st_size))


def flip(entries: list[Path], rng: random.Random) -> None:
    entry = rng.choice(entries)
    file = bytearray(entry.read_bytes())
    file[rng.randrange(len(file))] ^= 1 << rng.randrange(8)
    entry.write_bytes(file)


def test_caches_that_are_spoilt(
    gate: Path, reference: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    folder = tmp_path / "cache"
    plain(gate, cache=folder)
    for number in range(POISONINGS):
        entries = sorted(folder.rglob("*.safetensors"))
        spoil = (swap, truncate, flip)[number % 3]
        spoil(entries, rng)
        report = plain(gate, cache=folder)
        assert len(told(report)) == 1, spoil.__name__
        assert report["cache"]["misses"] == (2 if spoil is swap else 1)
        same(report, reference)
        assert sorted(folder.rglob("*.safetensors")) == entries
    assert told(plain(gate, cache=folder)) == []
