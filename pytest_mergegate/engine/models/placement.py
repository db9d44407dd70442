"""Where the base runs and in what numbers: all of it in memory or not, and how much at a time."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.pool.pool import Pool

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]


_HEADROOM = 1.1
"""States and one layer's inputs, for each byte of weights."""
_CPU_TOKENS = 512
"""Per thread; measured: with more, a layer's numbers no longer stay in the core's caches."""
_GPU_TOKENS = 1 << 14
_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
UNLIMITED = 1 << 62

Residence = Literal["whole", "spread", "streamed"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a base is loaded."""

    device: torch.device
    """Where it computes; the first of several where it is spread."""
    dtype: torch.dtype = torch.float32
    residence: Residence = "whole"
    """``whole`` on the device, ``spread`` over all GPUs, or ``streamed``: one module at a time."""
    trust_remote_code: bool = False


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda[:i]`` to a device. Raises GateError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise GateError(f"there is no device {name!r}", fix="use auto, cpu or cuda[:i]") from None
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise GateError(f"device {name!r} is not available here", fix="use the device auto or cpu")
    return device


def place(pool: Pool, vectors: TaskVectors, device: torch.device) -> Placement:
    """The placement that a pool's gate asks for, in the memory that there is."""
    dtype: torch.dtype = getattr(torch, pool.spec.precision)
    sizes = {name: header.size for name, header in pool.base.tensors.items()}
    # the base, and the weights of the expert that changes most of it
    changed = (sum(sizes.get(p, 0) for p in vectors.parameters(n)) for n in vectors.names)
    numbers = sum(sizes.values()) + max(changed, default=0)
    needed = int(_HEADROOM * numbers * dtype.itemsize)
    residence: Residence = "whole"
    if needed > available(device):
        residence = "spread" if needed <= available_on_all_gpus(device) else "streamed"
    return Placement(
        device=device,
        dtype=dtype,
        residence=residence,
        trust_remote_code=pool.spec.trust_remote_code,
    )


def available(device: torch.device) -> int:
    """Bytes that the process may still take on ``device``: the least that any limit leaves."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    in_the_machine = _kilobytes(_PROC / "meminfo", "MemAvailable", UNLIMITED)
    return max(0, min(in_the_machine, _in_cgroups(), _under_limits()))


def available_on_all_gpus(device: torch.device) -> int:
    """Bytes free on all GPUs together; none where ``device`` is no GPU, or the only one."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return sum(torch.cuda.mem_get_info(k)[0] for k in range(count)) if count > 1 else 0


def _under_limits() -> int:
    """What RLIMIT_AS and RLIMIT_DATA leave."""
    left = UNLIMITED
    if resource is None:
        return left
    for kind, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            left = min(left, soft - _kilobytes(_PROC / "self/status", used, 0))
    return left


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
    return left


def _kilobytes(file: Path, key: str, otherwise: int) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", _text(file), re.MULTILINE)
    return int(found[1]) << 10 if found else otherwise


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def batch_tokens(device: torch.device) -> int:
    """Tokens of one forward pass, padding included: few on a CPU, enough to fill a GPU."""
    return _CPU_TOKENS * torch.get_num_threads() if device.type == "cpu" else _GPU_TOKENS


def batches(
    lengths: Sequence[int], most: int, *, begun: int = 0, held: int = UNLIMITED
) -> Iterator[list[int]]:
    """Indices in groups of similar length whose padded size stays within ``most`` tokens, and
    within those that can be ``held``, where each stands behind ``begun`` others."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        rows = len(group) + 1
        if group and (lengths[index] * rows > most or (begun + lengths[index]) * rows > held):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def pad(rows: Sequence[Sequence[int]], token: int, *, side: str) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, [rows, width] each, filled up with ``token`` on ``side``."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = [torch.ones_like(row) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_value=token, padding_side=side),
        pad_sequence(mask, batch_first=True, padding_value=0, padding_side=side),
    )
