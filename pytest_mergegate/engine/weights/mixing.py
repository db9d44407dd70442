"""Weights that are put together when they are asked for, or where they are to stand."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.pool.threads import workers

if TYPE_CHECKING:
    from pytest_mergegate.engine.models.model import Model

T = TypeVar("T")
R = TypeVar("R")

_TILE = 1 << 18
"""Numbers that stay in a core's cache while all that belongs to them is added up."""
_WORTH = 1 << 22
"""Numbers of all parameters from which on several cores share them."""


class PlacedWeights(Mapping[str, Tensor]):
    """Parameters by name, put together when they are asked for, or where they are to stand: several
    at a time or ``alone``.

    ``put`` writes one, on the CPU, into a place of the dtype in which ``model`` holds it.
    """

    def __init__(
        self,
        names: Sequence[str],
        model: "Model",
        put: Callable[[str, Tensor], None],
        *,
        alone: bool = False,
    ) -> None:
        self._names = dict.fromkeys(names)
        self._model, self._put, self._alone = model, put, alone

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._made(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _made(self, name: str) -> Tensor:
        place = torch.empty_like(self._model.held_weight(name), device="cpu")
        self._put(name, place)
        return place

    def fill(self, places: Mapping[str, Tensor], done: Callable[[str], object]) -> None:
        """Write every parameter to its place, on as many cores as torch has; ``done`` hears of it,
        in whatever thread that was."""

        def put(name: str) -> None:
            self._put(name, places[name])
            done(name)

        numbers = sum(place.numel() for place in places.values())
        in_lanes(put, [*places], alone=self._alone or numbers < _WORTH)


class MixedWeights(PlacedWeights):
    """θ_0 + Σ λ_j τ_j: float32 on the model's device, or rounded once, in its place."""

    def __init__(
        self,
        names: Sequence[str],
        model: "Model",
        vectors: TaskVectors,
        scales: Mapping[str, float],
    ) -> None:
        super().__init__(names, model, self.put)
        self._vectors, self._scales = vectors, scales

    def _made(self, parameter: str) -> Tensor:
        total = self._model.held_weight(parameter).to(torch.float32)
        dense, terms = self._vectors.parts(parameter, self._scales)
        if dense is not None:
            total = total + dense.to(total.device)
        for left, right, scale in terms:
            total = torch.addmm(total, left.to(total.device), right.to(total.device), alpha=scale)
        return total

    def put(self, parameter: str, place: Tensor) -> None:
        """Write one to ``place``, on the CPU."""
        self.rows(parameter).put(place)

    def rows(self, parameter: str) -> "FactoredTensor":
        """One of them, to be made some rows at a time."""
        own = self._model.held_weight(parameter).cpu()
        dense, terms = self._vectors.parts(parameter, self._scales)
        return FactoredTensor(own, terms, dense)


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


class FactoredTensor:
    """A tensor and what is added to it, in factors as far as it goes, made some rows at a time: so
    many as stay in a core's cache until all is added up, and used."""

    def __init__(
        self,
        own: Tensor,
        terms: Sequence[tuple[Tensor, Tensor, float]] = (),
        dense: Tensor | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """``terms`` are (L [rows, rank], R [rank, columns], λ), of a matrix ``own``; ``dense`` has
        its shape. ``own`` is the base's, or is ``whole``: all of the tensor, with nothing to add.
        """
        self.own = _matrix(own)
        self._terms = terms
        self._dense = None if dense is None else _matrix(dense)
        self._whole = whole

    @property
    def factors(self) -> Sequence[tuple[Tensor, Tensor, float]] | None:
        """All that is added to the base's own, as (L, R, λ); None where some of it is no product
        of factors."""
        return None if self._whole or self._dense is not None else self._terms

    def change(self, base: "FactoredTensor") -> Tensor:
        """What is added to ``base``'s own, as a matrix in float64."""
        if self._whole:
            return self.own.double() - base.own.double()
        total = torch.zeros(self.own.shape, dtype=torch.float64)
        if self._dense is not None:
            total += self._dense
        for left, right, scale in self._terms:
            total.addmm_(left.double(), right.double(), alpha=scale)
        return total

    def into(self, tile: Tensor, first: int) -> Tensor:
        """The rows from ``first`` on, as many as ``tile`` [rows, columns] has; float32."""
        part = slice(first, first + len(tile))
        tile.copy_(self.own[part])
        if self._dense is not None:
            tile += self._dense[part]
        for left, right, scale in self._terms:
            tile.addmm_(left[part], right, alpha=scale)
        return tile

    def put(self, place: Tensor) -> Tensor:
        """Write the whole to ``place``, of the same shape, rounded to its dtype."""
        whole = _matrix(place)
        rows = max(1, _TILE // max(whole.shape[1], 1))
        tile = torch.empty(min(rows, len(whole)), whole.shape[1])
        for first in range(0, len(whole), rows):
            part = whole[first : first + rows]
            if part.dtype == tile.dtype:
                self.into(part, first)
            else:
                part.copy_(self.into(tile[: len(part)], first))
        return place


def _matrix(tensor: Tensor) -> Tensor:
    shape = tensor.shape if tensor.ndim > 1 else (1, *tensor.shape)
    return tensor.reshape(shape[0], math.prod(shape[1:]))
