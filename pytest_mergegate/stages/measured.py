"""Scores without any merge, and the loss between those and a merge's (Eq. 1)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate import metrics
from pytest_mergegate.common.plain import Float64s, result
from pytest_mergegate.common.values import Value

_BINARY = frozenset({"exact_match", "accuracy"})
"""Metrics that know no scores but 0 and 1."""


@result
class ReferenceScores:
    """Scores of one task without any merge, in [0, 1], one per example that is no copy."""

    inputs: tuple[int, ...] | None
    """Which of the expert's examples these are; None for a harness's own."""
    base: Float64s
    expert: Float64s
    chance: float
    """The majority class's share where answers are choices or labels, else 0."""
    of_outputs: bool
    """Whether the scores follow from the answers alone, so that a certificate bounds them."""

    def only(self, examples: Sequence[int]) -> Self:
        """Of some of the examples, in the order in which they stand here."""
        assert self.inputs is not None
        which = np.isin(self.inputs, examples)
        inputs = tuple(np.array(self.inputs)[which].tolist())
        return replace(self, inputs=inputs, base=self.base[which], expert=self.expert[which])


@result
class MeasuredLoss:
    """Mean scores on some examples, and the loss between two of them."""

    examples: int
    """How many were scored; a copy counts once."""
    score_base: float
    score_expert: float
    score_merged: float
    loss: Value
    """Eq. 1 in percent, negative when the merge is worse, with its interval (THEORY 9)."""
    gain_kept: Value
    """Share of what the expert adds to its base that the merge keeps, with its interval; missing
    where these examples do not show that it adds anything."""


def measured_loss(
    reference: ReferenceScores, merged: NDArray[np.float64], metric: str, level: float
) -> MeasuredLoss:
    """What a merge that scores ``merged`` [n] on the examples of ``reference`` has lost, with
    intervals at a confidence."""
    base, own = reference.base, reference.expert
    sums = [float(scores.sum()) for scores in (merged, own, base)]  # see the loss
    return MeasuredLoss(
        examples=len(merged),
        score_base=float(base.mean()),
        score_expert=float(own.mean()),
        score_merged=float(merged.mean()),
        loss=Value.computed(
            # of sums: a loss of 1 in 100 is no round-off over 1 %
            lambda: metrics.merging_loss(float(merged.sum()), float(own.sum())),
            lambda: metrics.merging_loss_interval(
                merged, own, confidence=level, binary=metric in _BINARY
            ),
        ),
        gain_kept=Value.computed(
            lambda: metrics.gain_kept(*sums),
            lambda: metrics.gain_kept_interval(merged, own, base, confidence=level),
        ),
    )
