"""How much memory this process may still take."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_M_MMAP_THRESHOLD = -3
"""Of malloc.h."""
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available(device: torch.device) -> int:
    """Bytes: the least that the machine, its container and the process's limits leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([*_machine(), *_container(), *_limits()], default=sys.maxsize)


def return_freed() -> None:
    """Have glibc give large blocks back as soon as they are freed, for the rest of the process.

    By default it keeps the places of blocks up to 32 MB, the size of a layer's weights, and the
    gaps between them add up to hundreds of megabytes. Elsewhere than with glibc nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _machine() -> Iterator[int]:
    if (found := _status(Path("/proc/meminfo"), "MemAvailable")) is not None:
        yield found


def _container() -> Iterator[int]:
    for most, used in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max" stands for no limit
            yield int(Path(most).read_text()) - int(Path(used).read_text())


def _limits() -> Iterator[int]:
    """What ``ulimit -v`` and ``ulimit -d`` leave."""
    try:
        import resource
    except ImportError:  # Windows
        return
    own = Path("/proc/self/status")
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            yield most - (_status(own, used) or 0)


def _status(file: Path, name: str) -> int | None:
    """A line of ``/proc``, in bytes; None where there is no such file."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    return None
