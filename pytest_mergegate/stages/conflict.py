"""Stage 2: how the task vectors conflict, for every pair of experts (THEORY 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from pytest_mergegate import metrics
from pytest_mergegate.engine.conflicts import pair_conflicts
from pytest_mergegate.engine.task_vectors import squared_norms
from pytest_mergegate.values import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_mergegate.engine.task_vectors import TaskVectors
    from pytest_mergegate.metrics import ConflictSums
    from pytest_mergegate.pool.pool import Pool


@dataclass(frozen=True, kw_only=True)
class PairConflict:
    """The conflict ratios of one pair, over the tensors that either expert adapts."""

    a: str
    b: str
    magnitude_change_ratio: Value
    sign_change_ratio: Value
    sign_change_ratio_of_base: Value
    """The same count over all parameters of the base."""
    conflicting_magnitude_ratio: Value
    cosine: Value
    cosine_mean: Value
    """Mean of the per-tensor cosines."""


@dataclass(frozen=True, kw_only=True)
class ConflictResult:
    """What the weights say."""

    pairs: tuple[PairConflict, ...]
    norms: Mapping[str, float]
    """‖τ_i‖ by expert."""


def run_conflict(
    pool: Pool, vectors: TaskVectors, progress: Callable[[float], None]
) -> ConflictResult:
    """Compute every pair's ratios in one pass over the parameters."""
    tensors: dict[tuple[str, str], list[ConflictSums]] = {
        pair: [] for pair in combinations(pool.names, 2)
    }
    parameters = vectors.parameters()
    for done, parameter in enumerate(parameters, start=1):
        for pair, sums in pair_conflicts(vectors, parameter).items():
            tensors[pair].append(sums)
        progress(done / len(parameters))
    return ConflictResult(
        pairs=tuple(_ratios(pair, sums, pool.base.parameters) for pair, sums in tensors.items()),
        norms={name: math.sqrt(square) for name, square in squared_norms(vectors).items()},
    )


def _ratios(pair: tuple[str, str], tensors: list[ConflictSums], parameters: int) -> PairConflict:
    total = sum(tensors[1:], start=tensors[0])
    return PairConflict(
        a=pair[0],
        b=pair[1],
        magnitude_change_ratio=Value.computed(lambda: metrics.magnitude_change_ratio(total)),
        sign_change_ratio=Value.computed(lambda: metrics.sign_change_ratio(total)),
        sign_change_ratio_of_base=Value.computed(
            lambda: metrics.sign_change_ratio(total, positions=parameters)
        ),
        conflicting_magnitude_ratio=Value.computed(
            lambda: metrics.conflicting_magnitude_ratio(total)
        ),
        cosine=Value.computed(lambda: metrics.cosine(total)),
        cosine_mean=Value.computed(lambda: metrics.mean_cosine(tensors)),
    )
