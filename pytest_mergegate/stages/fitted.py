"""What a finished merge does to the base's weights, as a sum of what its experts do to them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.plain import result
from pytest_mergegate.common.wording import FINISHED

if TYPE_CHECKING:  # which import torch
    from torch import Tensor

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.stages.context import Context

_MOST = 8
"""Experts whose changes of one tensor are held in memory together."""


@result
class FittedChange:
    """The change Δ of a finished merge beside the task vectors τ_j of its experts."""

    off: float
    """‖Δ − τ‖ / ‖τ‖ of a single expert; of several ‖Δ − Σ λ_j τ_j‖ / ‖Δ‖ with the λ_j that fit
    best."""
    farthest: str
    """The parameter where a single expert's change is furthest off, relative to its size."""
    weights: dict[str, float]
    """λ_j by expert."""


def fitted_change(context: Context, engine: Engine) -> FittedChange | None:
    """None where the merge has other tensors than the base, or an expert's change is not known;
    where there are too many experts; and where nothing changes."""
    pool, vectors = context.pool, context.vectors
    merged, names = pool.merged, pool.names
    assert merged is not None
    if len(names) > _MOST or (merged.adapter is None and merged.tensors is None):
        return None
    size, changed = (
        len(names) + 1,
        [p for p in vectors.parameters() if pool.base.tensors.is_float(p)],
    )
    total, worst = np.zeros((size, size)), (-1.0, "")
    if len(changed) < len(vectors.parameters()):
        return None
    for parameter in changed:
        found = _change(pool, engine, parameter)
        own = [vectors.delta(name, parameter) for name in names]
        if found is None or any(t is not None and t.shape != found.shape for t in own):
            return None
        rows = [found, *(found * 0 if t is None else t for t in own)]
        gram = np.array([[_product(a, b) for a in rows] for b in rows])
        square = float(np.trace(gram[1:, 1:]))
        far = gram[0, 0] - 2 * gram[0, 1:].sum() + gram[1:, 1:].sum()
        worst = max(worst, (far / square if square else 0.0, parameter))
        total += gram
    weights = np.linalg.lstsq(total[1:, 1:], total[1:, 0], rcond=None)[0]
    if len(names) == 1:
        far, scale = float(total[0, 0] - 2 * total[0, 1] + total[1, 1]), float(total[1, 1])
    else:
        far, scale = float(total[0, 0] - weights @ total[1:, 0]), float(total[0, 0])
    if not scale > 0:
        return None
    return FittedChange(
        off=math.sqrt(max(far, 0.0) / scale),
        farthest=worst[1],
        weights=dict(zip(names, weights.tolist(), strict=True)),
    )


def _product(one: Tensor, other: Tensor) -> float:
    return float(one.double().flatten() @ other.double().flatten())


def _change(pool: Pool, engine: Engine, parameter: str) -> Tensor | None:
    """What the merge does to one parameter of the base, in float32."""
    import torch

    merged, base = pool.merged, pool.base.tensors
    assert merged is not None
    if merged.adapter is not None:
        changed = engine.vectors.delta(FINISHED, parameter)
        return torch.zeros(base[parameter].shape) if changed is None else changed
    tensors = merged.tensors
    if tensors is None or not tensors.is_float(parameter):
        return None
    if tensors[parameter].shape != base[parameter].shape:
        return None
    return torch.from_numpy(tensors.floats(parameter) - base.floats(parameter))
