"""Scores of an expert and of a merge beside it, of known means and of several shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Scores = npt.NDArray[np.float64]
    Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How scores are distributed."""

    name: str
    metric: str
    own: Callable[[Rng, int], Scores]
    """The expert's, on so many examples."""
    merged: Callable[[Rng, Scores, float], Scores]
    """The merge's beside them: its mean is less by this share of the expert's."""


def _times_beta(rng: Rng, own: Scores, lost: float) -> Scores:
    return own * rng.beta(20 * (1 - lost), 20 * lost, own.size)


def _all_or_nothing(rng: Rng, own: Scores, lost: float) -> Scores:
    return (rng.random(own.size) < own * (1 - lost)).astype(np.float64)


def _rare_total(rng: Rng, own: Scores, lost: float) -> Scores:
    return np.where(rng.random(own.size) < lost, 0.0, own)


def _with_gains(rng: Rng, own: Scores, lost: float) -> Scores:
    """Of what is wrong, the merge gets a fifth right; and so loses more of what is right."""
    chance = rng.random(own.size)
    more = lost + 0.2 * 0.2 / 0.8
    return np.where(own == 1, chance >= more, chance < 0.2).astype(np.float64)


def overlap(rng: Rng, size: int) -> Scores:
    """As ROUGE-L has it: often nothing, often all, and twelfths between."""
    kind, between = rng.random(size), np.round(12 * rng.beta(2, 2, size)) / 12
    return np.where(kind < 0.15, 0.0, np.where(kind < 0.4, 1.0, between))


OVERLAP_MEAN = 0.25 + 0.6 * 0.5
"""The mean of ``overlap``."""


def _rewritten(rng: Rng, own: Scores, lost: float) -> Scores:
    """Two answers of five are other ones, as good on average; some then overlap with nothing."""
    other = np.where(rng.random(own.size) < 0.4, overlap(rng, own.size), own)
    return _rare_total(rng, other, lost)


def _share_right(share: float) -> Callable[[Rng, int], Scores]:
    return lambda rng, size: (rng.random(size) < share).astype(np.float64)


RIGHT = Shape(
    name="0/1, the expert always right",
    metric="exact_match",
    own=_share_right(1.0),
    merged=_rare_total,
)
SOMETIMES = replace(RIGHT, name="0/1, the expert right on 80 %", own=_share_right(0.8))
GAINS = replace(SOMETIMES, name="0/1, with gains", merged=_with_gains)
BINARY = (RIGHT, SOMETIMES, GAINS)
BETA = Shape(
    name="graded, beta",
    metric="rouge_l",
    own=lambda rng, size: rng.beta(4, 2, size),
    merged=_times_beta,
)
TWO_POINTS = replace(
    BETA,
    name="graded, two points",
    own=lambda rng, size: np.full(size, 0.5),
    merged=_all_or_nothing,
)
RARE = replace(
    BETA,
    name="graded, rare total losses",
    own=lambda rng, size: np.full(size, 0.9),
    merged=_rare_total,
)
OVERLAP = replace(BETA, name="graded, like ROUGE-L", own=overlap, merged=_rewritten)
GRADED = (BETA, TWO_POINTS, RARE, OVERLAP)
