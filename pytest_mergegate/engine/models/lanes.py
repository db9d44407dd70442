"""Batches side by side: two products on a core each are done sooner than one after the other, each
on both."""

from __future__ import annotations

from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import torch

from pytest_mergegate.engine.models.batches import batches
from pytest_mergegate.pool.threads import workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from torch import Tensor

    from pytest_mergegate.engine.models.model import Model
    from pytest_mergegate.engine.models.readings import Row
    from pytest_mergegate.gate.sections import Positions

T = TypeVar("T")
R = TypeVar("R")

_WORTH = 1 << 33
"""Tokens times parameters; with less, Python's threads are in each other's way."""
_ROUNDING = 1e-3
"""By which two passes over the same row may differ, relative to the states' length."""
_TOKENS = 64
"""Of a lane, at least: with fewer, to read the weights takes longer than the products."""


@contextmanager
def one_core_each() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has cores, in each of which it computes with one."""
    cores = torch.get_num_threads()
    try:
        with workers(cores, lambda: torch.set_num_threads(1)) as threads:
            yield threads
    finally:
        torch.set_num_threads(cores)  # what threads to come start with was changed as well


def in_lanes(function: Callable[[T], R], items: Sequence[T], *, alone: bool = False) -> list[R]:
    """``function`` of every item, in their order: several at a time, unless ``alone``."""
    if alone:
        return [function(item) for item in items]
    with one_core_each() as threads:
        return list(threads.map(function, items))


class Lanes:
    """As many batches at a time as torch has threads, each in a thread with one core.

    Every lane has a model of its own that shares nothing but the weights, since passes may leave
    something behind in a module: rotary embeddings remember how far they reach.
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
            both = (model.batch_states(rows, positions) for model in (self._model, twin))
            same = all(_is_same(one, other) for one, other in zip(*both, strict=True))
        except Exception:  # of whatever the model is made of
            same = False
        if same:
            self._twins.append(twin)
        else:
            self._has_twins = False


def _is_same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.linalg.norm(one - other) <= _ROUNDING * torch.linalg.norm(one))
