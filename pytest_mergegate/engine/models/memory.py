"""How much memory the process may still take: the least that any limit leaves."""

from __future__ import annotations

import re
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
UNLIMITED = 1 << 62


def available(device: torch.device) -> int:
    """Bytes that may still be taken on ``device``; very many where no limit is known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_in_the_machine(), _in_cgroups(), _under_limits())


def available_on_all_gpus(device: torch.device) -> int:
    """Bytes free on all GPUs together; none where ``device`` is no GPU, or the only one."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return sum(torch.cuda.mem_get_info(k)[0] for k in range(count)) if count > 1 else 0


def _in_the_machine() -> int:
    return _kilobytes(_PROC / "meminfo", "MemAvailable", UNLIMITED)


def _under_limits() -> int:
    """What RLIMIT_AS and RLIMIT_DATA leave."""
    left = UNLIMITED
    if resource is None:
        return left
    for kind, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            left = min(left, soft - _kilobytes(_PROC / "self/status", used, 0))
    return max(left, 0)


def _in_cgroups() -> int:
    """What the process's control groups and those above them leave, version 2 or 1.

    The page cache is not counted as taken: it is given back when memory runs short.
    """
    left = UNLIMITED
    for line in _text(_PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, taken = _CGROUPS, "memory.max", "anon"
        elif "memory" in controllers.split(","):
            root, limit, taken = _CGROUPS / "memory", "memory.limit_in_bytes", "total_rss"
        else:
            continue
        own = root / path.lstrip("/")
        # in a container the path may be the host's, of which only the root is seen
        for group in {root, *(g for g in (own, *own.parents) if g.is_relative_to(root))}:
            most = _text(group / limit).strip()
            if most.isdigit():
                used = re.search(rf"^{taken} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
                left = min(left, int(most) - (int(used[1]) if used else 0))
    return max(left, 0)


def _kilobytes(file: Path, key: str, otherwise: int) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", _text(file), re.MULTILINE)
    return int(found[1]) << 10 if found else otherwise


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
