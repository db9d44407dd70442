"""How far one model's predictions on an expert's own inputs are from that expert's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_mergegate.engine.running.agreement import Agreement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def compare(expert: Iterable[Tensor], other: Iterable[Tensor]) -> Agreement:
    """Compare scores [T, options] of two models input by input.

    Greedy answers agree exactly when every argmax on the expert's own answer agrees: up to the
    first position that differs both models have seen the same tokens.
    """
    differs, divergences = [], []
    for own, theirs in zip(expert, other, strict=True):
        differs.append(bool((own.argmax(-1) != theirs.argmax(-1)).any()))
        divergences.append(_kl(own, theirs))
    return Agreement(differs=tuple(differs), divergences=tuple(divergences))


def _kl(own: Tensor, theirs: Tensor) -> float:
    p = torch.log_softmax(own.to(torch.float64), dim=-1)
    q = torch.log_softmax(theirs.to(torch.float64), dim=-1)
    return float((p.exp() * (p - q)).sum(-1).clamp_min(0).mean())
