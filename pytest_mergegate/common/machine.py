"""What of this machine the process may use: cores and memory, by whatever limit is the least."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

UNLIMITED = 1 << 62
_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """How many the process may keep busy: those of its affinity, or fewer where its control groups
    give it less time than that; ``root`` is where proc and sys are."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        quota, _, period = _text(group / "cpu.max").strip().partition(" ")  # version 2
        if not quota:
            quota = _text(group / "cpu.cfs_quota_us").strip()
            period = _text(group / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
            count = min(count, max(-(-int(quota) // int(period)), 1))
    return count


def thread_count(root: Path = _ROOT) -> int:
    """As many as cores, unless OMP_NUM_THREADS says otherwise, as it does for torch."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return cores(root)


def memory_left(root: Path = _ROOT) -> int:
    """Bytes that the process may still take: the least that any limit leaves."""
    in_the_machine = _kilobytes(root / "proc/meminfo", "MemAvailable", UNLIMITED)
    return max(0, min(in_the_machine, _in_cgroups(root), _under_limits(root)))


def _under_limits(root: Path) -> int:
    """What RLIMIT_AS and RLIMIT_DATA leave."""
    left = UNLIMITED
    if resource is None:
        return left
    for kind, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            left = min(left, soft - _kilobytes(root / "proc/self/status", used, 0))
    return left


def _in_cgroups(root: Path) -> int:
    """What the process's control groups leave.

    The page cache is not counted as taken: it is given back when memory runs short.
    """
    left = UNLIMITED
    for group in _groups(root, "memory"):
        for limit, taken in (("memory.max", "anon"), ("memory.limit_in_bytes", "total_rss")):
            most = _text(group / limit).strip()
            if most.isdecimal():
                used = re.search(rf"^{taken} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
                left = min(left, int(most) - (int(used[1]) if used else 0))
    return left


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the process's control groups of a kind and of those above them, version 2
    or 1."""
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mounts / controller if controllers else mounts
        own = top / path.lstrip("/")
        # in a container the path may be the host's, of which only the root is seen
        yield from {top, *(g for g in (own, *own.parents) if g.is_relative_to(top))}


def _kilobytes(file: Path, key: str, otherwise: int) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", _text(file), re.MULTILINE)
    return int(found[1]) << 10 if found else otherwise


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
