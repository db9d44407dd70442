"""How far one model's predictions on an expert's own inputs are from that expert's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_mergegate.common.plain import result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


@result
class Agreement:
    """What comes out of a comparison over n inputs."""

    differs: tuple[bool, ...]
    """Per input: whether the answers differ."""
    same: tuple[bool, ...]
    """Per input: whether the other's answer is the expert's to the last token, so that whatever is
    known of one holds for the other."""
    divergences: tuple[float, ...]
    """Per input: KL(expert ‖ other) in nats, mean over its positions."""

    @property
    def n(self) -> int:
        """Number of inputs compared."""
        return len(self.differs)

    @property
    def kl(self) -> float:
        """Mean KL(expert ‖ other) in nats, over positions and then over inputs."""
        return math.fsum(self.divergences) / self.n

    @property
    def disagreements(self) -> int:
        """Number of inputs on which the answers differ."""
        return sum(self.differs)

    @property
    def rate(self) -> float:
        """Share of inputs on which the answers differ."""
        return self.disagreements / self.n


def agreement_of(expert: Iterable[Tensor], other: Iterable[Tensor]) -> Agreement:
    """Compare scores [T, options] of two models input by input.

    Greedy answers agree exactly when every argmax on the expert's own answer agrees: up to the
    first position that differs both models have seen the same tokens.
    """
    differs, same, divergences = [], [], []
    for own, theirs in zip(expert, other, strict=True):
        same.append(bool((own.argmax(-1) == theirs.argmax(-1)).all()))
        differs.append(not same[-1])
        divergences.append(_divergence(own, theirs))
    return Agreement(differs=tuple(differs), same=tuple(same), divergences=tuple(divergences))


def _divergence(own: Tensor, theirs: Tensor) -> float:
    import torch

    p = torch.log_softmax(own.to(torch.float64), dim=-1)
    q = torch.log_softmax(theirs.to(torch.float64), dim=-1)
    return float((p.exp() * (p - q)).sum(-1).clamp_min(0).mean())
