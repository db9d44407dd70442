"""Where the base runs and in what numbers: all of it in memory or not, and how much at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.machine import UNLIMITED, memory_left, thread_count
from pytest_mergegate.engine.models.footprint import bytes_needed
from pytest_mergegate.pool.pool import Pool

_CPU_TOKENS = 512
"""Per thread; measured: with more, a layer's numbers no longer stay in the core's caches."""
_GPU_TOKENS = 1 << 14
_SHARE = 4
"""One part in so many of the memory that is left is for one batch."""

Residence = Literal["whole", "spread", "streamed"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a base is loaded."""

    device: torch.device
    """Where it computes; the first of several where it is spread."""
    dtype: torch.dtype = torch.float32
    """To which weights are rounded."""
    computes: torch.dtype | None = None
    """What they are held in to be computed with, where it is another: float32, where products of
    ``dtype`` are slow."""
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


def place(pool: Pool, device: torch.device, computes: str | None = None) -> Placement:
    """The placement that a pool's gate asks for, in the memory that there is; what ``computes`` is
    known already."""
    dtype: torch.dtype = getattr(torch, pool.spec.precision)
    held: torch.dtype = getattr(torch, computes or pool.spec.precision)
    needed = bytes_needed(pool, held.itemsize)
    residence: Residence = "whole"
    if needed > available(device):
        residence = "spread" if needed <= available_on_all_gpus(device) else "streamed"
    return Placement(
        device=device,
        dtype=dtype,
        computes=None if held == dtype else held,
        residence=residence,
        trust_remote_code=pool.spec.trust_remote_code,
    )


def available(device: torch.device) -> int:
    """Bytes that the process may still take on ``device``."""
    if device.type != "cuda":
        return memory_left()
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


def gpu(device: torch.device) -> str:
    """What kind of GPU it is."""
    return torch.cuda.get_device_name(device)


def use_own_cores() -> None:
    """Have torch compute with no more threads than the process has cores: it counts the machine's,
    of which a container may have few."""
    if torch.get_num_threads() > thread_count():
        torch.set_num_threads(thread_count())


def available_on_all_gpus(device: torch.device) -> int:
    """Bytes free on all GPUs together; none where ``device`` is no GPU, or the only one."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return sum(torch.cuda.mem_get_info(k)[0] for k in range(count)) if count > 1 else 0


def batch_tokens(device: torch.device) -> int:
    """Tokens of one forward pass, padding included: few on a CPU, enough to fill a GPU."""
    return _CPU_TOKENS * torch.get_num_threads() if device.type == "cpu" else _GPU_TOKENS


def bounded(tokens: int, token_bytes: int, device: torch.device) -> int:
    """``tokens`` of so many bytes each, or as many as a part of the memory that is left holds; some
    in any case."""
    return min(tokens, max(_CPU_TOKENS, available(device) // _SHARE // token_bytes))


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
