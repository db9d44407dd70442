"""Inner products of task vectors from their factors alone: no dense matrix, and exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.engine.weights.delta_rows import Doubles, FactorRows, Floats

MOST_RANKS = 4096
"""Of all factors together: their Gram has that many rows and columns."""
_BLOCK = 1 << 23
"""Numbers of the stacked factors at a time."""


def factor_dots(factors: Sequence[FactorRows]) -> Doubles:
    """⟨τ_i, τ_j⟩ = s_i s_j Σ (L_iᵀL_j) ∘ (R_iR_jᵀ), [experts, experts] (THEORY 2).

    All sums are in float64; only the upper triangle is filled.
    """
    starts = np.cumsum([0, *(factor.rank for factor in factors[:-1])])
    with np.errstate(invalid="ignore", over="ignore"):  # whoever asked looks for what is not finite
        products = _gram([factor.left for factor in factors])
        products *= _gram([factor.right.T for factor in factors])
        dots = np.add.reduceat(np.add.reduceat(products, starts, axis=0), starts, axis=1)
    scales = np.array([factor.scale for factor in factors])
    upper: Doubles = np.triu(dots * np.outer(scales, scales))
    np.fill_diagonal(upper, np.maximum(upper.diagonal(), 0.0))  # round-off of what cancels out
    return upper


def _gram(stack: Sequence[Floats]) -> Doubles:
    """SᵀS of matrices side by side."""
    width = sum(part.shape[1] for part in stack)
    gram = np.zeros((width, width))
    step = max(_BLOCK // width, 1)
    for start in range(0, len(stack[0]), step):
        some = [part[start : start + step] for part in stack]
        rows = np.concatenate(some, axis=1, dtype=np.float64)
        gram += rows.T @ rows  # numpy knows that this is symmetric, and computes half of it
    return gram
