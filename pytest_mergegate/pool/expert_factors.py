"""LoRA on the experts of a mixture: which factors belong to which expert, and their product.

PEFT keeps the factors of a whole stack in two matrices (``target_parameters``); adapters from
before the stacks were fused have two for every expert and projection.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.pool.changes import ExpertFactors, FactorBlock
from pytest_mergegate.pool.tensors import StoredTensors

Doubles = NDArray[np.float64]


def stacked(
    parameter: str,
    shape: tuple[int, ...],
    keys: tuple[str, str],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    transposed: bool,
    scale: Callable[[int], float],
) -> ExpertFactors | None:
    """The blocks of A [experts · rank, inputs] and B [outputs, rank · experts]; ``scale`` is by
    rank. None where they do not fit ``shape``."""
    a, b = shapes
    experts = shape[0] if len(shape) == 3 else 0
    sizes = (shape[2], shape[1]) if transposed else shape[1:]
    if not experts or len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] == 0:
        return None
    if a[0] % experts or (b[0], a[1]) != sizes:
        return None
    factor = scale(a[0] // experts)
    blocks = tuple(
        FactorBlock(expert=k, row=0, key_a=keys[0], key_b=keys[1], place=k, scale=factor)
        for k in range(experts)
    )
    return ExpertFactors(parameter=parameter, shape=shape, transposed=transposed, blocks=blocks)


def factors_of(
    change: ExpertFactors, tensors: StoredTensors
) -> Callable[[FactorBlock], tuple[Doubles, Doubles]]:
    """What gives B [outputs, rank] and A [rank, inputs] of a block; each tensor is read once."""
    experts = change.shape[0]

    @cache
    def numbers(key: str) -> Doubles:
        header = tensors[key]
        with tensors.reader(key) as reader:
            return reader.numbers(0, header.size).reshape(header.shape).astype(np.float64)

    def of(block: FactorBlock) -> tuple[Doubles, Doubles]:
        a, b = numbers(block.key_a), numbers(block.key_b)
        if block.place is None:
            return b, a
        rank = len(a) // experts
        return b[:, block.place :: experts], a[block.place * rank : (block.place + 1) * rank]

    return of


def products(change: ExpertFactors, tensors: StoredTensors) -> Callable[[int], Doubles]:
    """What makes τ of one expert of the stack, in the shape in which it is stored."""
    of = factors_of(change, tensors)
    by_expert: dict[int, list[FactorBlock]] = {}
    for block in change.blocks:
        by_expert.setdefault(block.expert, []).append(block)

    def product(expert: int) -> Doubles:
        found = np.zeros(change.shape[1:])
        for block in by_expert.get(expert, ()):
            b, a = of(block)
            if change.transposed:
                found += block.scale * (b @ a).T
            else:
                found[block.row : block.row + len(b)] += block.scale * (b @ a)
        return found

    return product


def squares(change: ExpertFactors, tensors: StoredTensors) -> Iterator[tuple[FactorBlock, float]]:
    """‖τ‖² of every block: Σ (BᵀB) ∘ (AAᵀ)."""
    of = factors_of(change, tensors)
    for block in change.blocks:
        b, a = of(block)
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(((b.T @ b) * (a @ a.T)).sum())
        yield block, block.scale**2 * (square if not square < 0 else 0.0)
