"""The last feed-forward block, computed only at the positions whose states are read."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_BLOCKS = ("mlp", "feed_forward", "ffn")


class LastLayer:
    """Trims the last block of a stack of layers, where it has the usual shape.

    A feed-forward block works on every position by itself, and nothing reads the last one's output
    but the final norm: two thirds of a layer's work are saved at all positions that nobody reads.
    Whoever uses it must hold its states against untrimmed ones, once for an architecture.
    """

    def __init__(self, backbone: torch.nn.Module) -> None:
        self._keep: Tensor | None = None
        block = _last_block(backbone)
        self.enabled = block is not None
        if block is not None:
            self._whole = block.forward
            block.forward = self._forward

    @contextlib.contextmanager
    def at(self, keep: Tensor) -> Iterator[None]:
        """Within the block, only where ``keep`` [rows, width] is true."""
        self._keep = keep if self.enabled else None
        try:
            yield
        finally:
            self._keep = None

    def _forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Any:
        keep = self._keep
        if keep is None or states.shape[:-1] != keep.shape:
            return self._whole(states, *args, **kwargs)
        found = self._whole(states[keep][None], *args, **kwargs)
        if not isinstance(found, torch.Tensor):  # a mixture of experts also returns its routing
            self.enabled = False
            return self._whole(states, *args, **kwargs)
        whole = states.new_zeros(states.shape)
        whole[keep] = found[0]
        return whole


def _last_block(backbone: torch.nn.Module) -> Any:
    stacks = [part for part in backbone.children() if isinstance(part, torch.nn.ModuleList)]
    if len(stacks) != 1 or not len(stacks[0]):
        return None
    last = stacks[0][-1]
    return next((getattr(last, name) for name in _BLOCKS if hasattr(last, name)), None)
