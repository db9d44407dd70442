"""Rows of different lengths in one forward pass; several pieces of work side by side."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pytest_mergegate.pool.threads import workers

T = TypeVar("T")
R = TypeVar("R")

_CPU_TOKENS = 512
"""Per thread; measured: with more, a layer's numbers no longer stay in the core's caches."""
_GPU_TOKENS = 1 << 14


def batch_tokens(device: torch.device) -> int:
    """Tokens of one forward pass, padding included: few on a CPU, enough to fill a GPU."""
    return _CPU_TOKENS * torch.get_num_threads() if device.type == "cpu" else _GPU_TOKENS


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices in groups of similar length whose padded size stays within ``most`` tokens."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if group and lengths[index] * (len(group) + 1) > most:
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


def in_lanes(function: Callable[[T], R], items: Sequence[T], *, alone: bool = False) -> list[R]:
    """``function`` of every item, in their order: unless ``alone`` as many at a time as torch has
    cores, each in a thread that computes with one."""
    if alone:
        return [function(item) for item in items]
    cores = torch.get_num_threads()
    try:
        with workers(cores, lambda: torch.set_num_threads(1)) as threads:
            return list(threads.map(function, items))
    finally:
        torch.set_num_threads(cores)  # what threads to come start with was changed as well
