"""The memory that a process may still take, from made-up machines."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_mergegate.engine.models import placement
from pytest_mergegate.engine.models.placement import batch_tokens

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a machine with 8 GiB free and no limits."""
    monkeypatch.setattr(placement, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(placement, "_CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    write(tmp_path / "proc/meminfo", f"MemTotal: 9 kB\nMemAvailable: {8 * GIB >> 10} kB\n")
    write(tmp_path / "proc/self/status", f"VmSize: {3 * GIB >> 10} kB\nVmData: {GIB >> 10} kB\n")
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_what_the_machine_has_left(machine: Path) -> None:
    assert placement.available(CPU) == 8 * GIB


def test_nothing_known(machine: Path) -> None:
    (machine / "proc/meminfo").unlink()
    (machine / "proc/self/cgroup").unlink()
    assert placement.available(CPU) == placement.UNLIMITED


@pytest.mark.parametrize("at", ["", "slice", "slice/job"])
def test_control_groups_of_version_2(machine: Path, at: str) -> None:
    """The limit may be the group's own or that of any above it."""
    write(machine / "proc/self/cgroup", "0::/slice/job\n")
    group = machine / "cgroups" / at
    write(group / "memory.max", f"{5 * GIB}\n")
    write(group / "memory.stat", f"anon {GIB}\nfile {4 * GIB}\nanon_thp 7\n")
    assert placement.available(CPU) == 4 * GIB


def test_control_groups_of_version_1(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "5:cpu,cpuacct:/job\n4:memory:/job\n")
    group = machine / "cgroups/memory/job"
    write(group / "memory.limit_in_bytes", f"{2 * GIB}\n")
    write(group / "memory.stat", f"rss 5\ntotal_rss {GIB}\n")
    assert placement.available(CPU) == GIB


def test_a_group_seen_from_inside_a_container(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/host/path/not/here\n")
    write(machine / "cgroups/memory.max", f"{GIB}\n")
    assert placement.available(CPU) == GIB


def test_no_limit_in_the_group(machine: Path) -> None:
    write(machine / "cgroups/memory.max", "max\n")
    assert placement.available(CPU) == 8 * GIB


@pytest.mark.parametrize(
    ("kind", "left"), [(resource.RLIMIT_AS, 3 * GIB), (resource.RLIMIT_DATA, 5 * GIB)]
)
def test_limits(machine: Path, kind: int, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    none = resource.RLIM_INFINITY
    limits = {kind: (6 * GIB, none)}
    monkeypatch.setattr(resource, "getrlimit", lambda k: limits.get(k, (none, none)))
    assert placement.available(CPU) == left
    limits[kind] = (GIB >> 1, none)
    assert placement.available(CPU) == 0


def test_batches_are_small_on_a_cpu() -> None:
    assert batch_tokens(CPU) == 512 * torch.get_num_threads()
    assert batch_tokens(torch.device("cuda")) > 8192
