"""Where the base runs and in what numbers, and whether all of it is in memory at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from pytest_mergegate.engine.models.memory import available, available_on_all_gpus

if TYPE_CHECKING:
    from pytest_mergegate.engine.weights.task_vectors import TaskVectors
    from pytest_mergegate.pool.pool import Pool

_HEADROOM = 1.1
"""States and one layer's inputs, for each byte of weights."""

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


def place(pool: Pool, vectors: TaskVectors, device: torch.device) -> Placement:
    """The placement that a pool's gate asks for, in the memory that there is."""
    spec = pool.spec
    dtype: torch.dtype = getattr(torch, spec.dtype)
    needed = bytes_needed(pool, vectors, dtype)
    residence: Residence = "whole"
    if needed > available(device):
        residence = "spread" if needed <= available_on_all_gpus(device) else "streamed"
    return Placement(
        device=device,
        dtype=dtype,
        residence=residence,
        trust_remote_code=spec.trust_remote_code,
    )


def bytes_needed(pool: Pool, vectors: TaskVectors, dtype: torch.dtype) -> int:
    """Memory for the base and for the weights of the expert that changes most of it."""
    sizes = {name: header.size for name, header in pool.base.tensors.items()}
    changed = (sum(sizes.get(p, 0) for p in vectors.parameters(n)) for n in vectors.names)
    numbers = sum(sizes.values()) + max(changed, default=0)
    return int(_HEADROOM * numbers * dtype.itemsize)
