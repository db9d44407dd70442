"""Where task vectors conflict, for the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.metrics.pairwise import RATIOS
from pytest_mergegate.report.pool_records import ConflictsRecord, TensorRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.stages.conflict import ConflictResult, PartConflicts


def layer_ratios(conflict: ConflictResult, a: int, b: int) -> dict[str, tuple[float | None, ...]]:
    """By ratio, that of two experts (their places in the pool) in every layer."""
    return {
        ratio: tuple(_known(layer.ratios[ratio][a, b]) for layer in conflict.layers)
        for ratio in RATIOS
    }


def conflicts_record(conflict: ConflictResult, pool: Pool) -> ConflictsRecord:
    """What holds for all pairs: the mode, the layers, and every tensor."""
    asked = pool.spec.conflict
    return ConflictsRecord(
        mode=asked.mode,
        rows=asked.rows if asked.mode == "sampled" else None,
        layers=tuple(layer.name for layer in conflict.layers),
        tensors=tuple(_tensor(tensor, pool.names) for tensor in conflict.tensors),
    )


def _tensor(part: PartConflicts, names: Sequence[str]) -> TensorRecord:
    a, b = np.triu_indices(len(names), 1)
    found = {ratio: part.ratios[ratio][a, b] for ratio in RATIOS}
    known = {ratio: values[~np.isnan(values)] for ratio, values in found.items()}
    worst = None
    if known["conflicting_magnitude_ratio"].size:
        k = int(np.nanargmax(found["conflicting_magnitude_ratio"]))
        worst = (names[int(a[k])], names[int(b[k])])
    means = {ratio: float(v.mean()) if v.size else None for ratio, v in known.items()}
    return TensorRecord(name=part.name, worst_pair=worst, **means)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else float(number)
