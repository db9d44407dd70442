"""Rows of different lengths in one forward pass, and several passes side by side."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import torch
from torch.nn.utils.rnn import pad_sequence

from pytest_mergegate.pool.threads import workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.model import Model
    from pytest_mergegate.engine.models.readings import Row
    from pytest_mergegate.gate.sections import Positions

T = TypeVar("T")
R = TypeVar("R")

_CPU_TOKENS = 512
"""Per thread; measured: with more, a layer's numbers no longer stay in the core's caches."""
_GPU_TOKENS = 1 << 14
_WORTH = 1 << 33
"""Tokens times parameters; with less, Python's threads are in each other's way."""
_ROUNDING = 1e-3
"""By which two passes over the same row may differ, relative to the states' length."""
_TOKENS = 64
"""Of a lane, at least: with fewer, to read the weights takes longer than the products."""


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


class Lanes:
    """As many batches at a time as torch has threads, each in a thread with one core.

    Two products on a core each are done sooner than one after the other, each on both: measured on
    two cores, a read takes 983 ms in bfloat16 without lanes and 862 ms with two of them, 1,333 ms
    and 932 ms (30 % less) in float32. Every lane has a model of its own that shares nothing but
    the weights, since passes may leave something behind in a module: rotary embeddings remember
    how far they reach.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._size = sum(parameter.numel() for parameter in model.parameters.values())
        self._twins: list[Model] = []
        self._has_twins = True

    def cut(self, lengths: Sequence[int], most: int) -> list[list[int]]:
        """Rows of ``lengths`` in batches that take ``most`` tokens at a time in all lanes."""
        total, lanes = sum(lengths), self._count(sum(lengths))
        if lanes > 1:
            rounds = -(-total // max(most, 1))
            even = -(-total // (rounds * lanes)) + max(lengths)  # there is some left in every batch
            most = min(even, most // lanes)
        return list(batches(lengths, most))

    def read(self, cut: Sequence[Sequence[Row]], positions: Positions) -> list[list[Tensor]]:
        """What ``Model.batch_states`` gives for every batch, in their order."""
        lanes = min(self._count(sum(len(p) + len(f) for rows in cut for p, f in rows)), len(cut))
        while len(self._twins) < lanes - 1 and self._has_twins:
            self._make_twin(cut[0][:1], positions)
        if lanes < 2 or not self._has_twins:
            return [self._model.batch_states(rows, positions) for rows in cut]
        idle: SimpleQueue[Model] = SimpleQueue()
        for model in (self._model, *self._twins[: lanes - 1]):
            idle.put(model)

        def read(rows: Sequence[Row]) -> list[Tensor]:
            model = idle.get()
            try:
                return model.batch_states(rows, positions)
            finally:
                idle.put(model)

        return in_lanes(read, cut)

    def _count(self, tokens: int) -> int:
        """How many lanes so many tokens are worth."""
        model = self._model
        if model.device.type != "cpu" or model.is_streamed or tokens * self._size < _WORTH:
            return 1
        return max(1, min(torch.get_num_threads(), tokens // _TOKENS))

    def _make_twin(self, rows: Sequence[Row], positions: Positions) -> None:
        """One more; none at all where a model cannot be copied, or its copy reads otherwise."""
        try:
            twin = self._model.twin()
            pairs = zip(
                *(m.batch_states(rows, positions) for m in (self._model, twin)), strict=True
            )
            same = all(torch.dist(a, b) <= _ROUNDING * torch.linalg.norm(a) for a, b in pairs)
        except Exception:  # of whatever the model is made of
            same = False
        if same:
            self._twins.append(twin)
        else:
            self._has_twins = False
