"""Rows of different lengths in one forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


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
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), token)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for k, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[k, place] = torch.tensor(row)
        mask[k, place] = 1
    return ids, mask
