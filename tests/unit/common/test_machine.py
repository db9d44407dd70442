"""The memory and the cores that a process may use, from made-up machines."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.machine import UNLIMITED, cores, memory_left, thread_count

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a machine with 8 GiB free and no limits."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    write(tmp_path / "proc/meminfo", f"MemTotal: 9 kB\nMemAvailable: {8 * GIB >> 10} kB\n")
    write(tmp_path / "proc/self/status", f"VmSize: {3 * GIB >> 10} kB\nVmData: {GIB >> 10} kB\n")
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_what_the_machine_has_left(machine: Path) -> None:
    assert memory_left(machine) == 8 * GIB


def test_nothing_known(machine: Path) -> None:
    (machine / "proc/meminfo").unlink()
    (machine / "proc/self/cgroup").unlink()
    assert memory_left(machine) == UNLIMITED


@pytest.mark.parametrize("at", ["", "slice", "slice/job"])
def test_control_groups_of_version_2(machine: Path, at: str) -> None:
    """The limit may be the group's own or that of any above it."""
    write(machine / "proc/self/cgroup", "0::/slice/job\n")
    group = machine / "sys/fs/cgroup" / at
    write(group / "memory.max", f"{5 * GIB}\n")
    write(group / "memory.stat", f"anon {GIB}\nfile {4 * GIB}\nanon_thp 7\n")
    assert memory_left(machine) == 4 * GIB


def test_control_groups_of_version_1(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "5:cpu,cpuacct:/job\n4:memory:/job\n")
    group = machine / "sys/fs/cgroup/memory/job"
    write(group / "memory.limit_in_bytes", f"{2 * GIB}\n")
    write(group / "memory.stat", f"rss 5\ntotal_rss {GIB}\n")
    assert memory_left(machine) == GIB


def test_a_group_seen_from_inside_a_container(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/host/path/not/here\n")
    write(machine / "sys/fs/cgroup/memory.max", f"{GIB}\n")
    assert memory_left(machine) == GIB


def test_no_limit_in_the_group(machine: Path) -> None:
    write(machine / "sys/fs/cgroup/memory.max", "max\n")
    assert memory_left(machine) == 8 * GIB


@pytest.mark.parametrize(
    ("kind", "left"), [(resource.RLIMIT_AS, 3 * GIB), (resource.RLIMIT_DATA, 5 * GIB)]
)
def test_limits(machine: Path, kind: int, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    none = resource.RLIM_INFINITY
    limits = {kind: (6 * GIB, none)}
    monkeypatch.setattr(resource, "getrlimit", lambda k: limits.get(k, (none, none)))
    assert memory_left(machine) == left
    limits[kind] = (GIB >> 1, none)
    assert memory_left(machine) == 0


@pytest.fixture
def sixteen_cores(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same machine with sixteen cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return machine


def test_cores_by_affinity(sixteen_cores: Path) -> None:
    assert cores(sixteen_cores) == thread_count(sixteen_cores) == 16


@pytest.mark.parametrize("at", ["", "slice", "slice/job"])
@pytest.mark.parametrize(
    ("most", "count"),
    [("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("max 100000", 16)],
)
def test_time_in_groups_of_version_2(sixteen_cores: Path, at: str, most: str, count: int) -> None:
    write(sixteen_cores / "proc/self/cgroup", "0::/slice/job\n")
    write(sixteen_cores / "sys/fs/cgroup" / at / "cpu.max", f"{most}\n")
    assert cores(sixteen_cores) == count


@pytest.mark.parametrize(("quota", "count"), [(300000, 3), (50000, 1), (-1, 16), (9900000, 16)])
def test_time_in_groups_of_version_1(sixteen_cores: Path, quota: int, count: int) -> None:
    write(sixteen_cores / "proc/self/cgroup", "5:cpu,cpuacct:/job\n4:memory:/job\n")
    group = sixteen_cores / "sys/fs/cgroup/cpu/job"
    write(group / "cpu.cfs_quota_us", f"{quota}\n")
    write(group / "cpu.cfs_period_us", "100000\n")
    assert cores(sixteen_cores) == count


def test_threads_are_those_that_were_asked_for(
    sixteen_cores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(sixteen_cores / "sys/fs/cgroup/cpu.max", "200000 100000\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert thread_count(sixteen_cores) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "none")
    assert thread_count(sixteen_cores) == 2
