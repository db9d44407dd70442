"""A bed without models: losses that are drawn, and scores that follow them more or less."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from unit.history.registry.making import made

from pytest_mergegate.history.beds import Bed
from pytest_mergegate.history.registry.lines import SCORES, RegistryLine

if TYPE_CHECKING:
    from collections.abc import Sequence

METHODS = ("linear", "task_arithmetic weight=1", "ties density=0.5", "dare_ties density=0.5")


def drawn_bed(name: str, *, letters: str = "abcdefgh", seed: int = 0, groups: int = 6) -> Bed:
    """Every pair and some groups; hard experts lose more, and disagree more."""
    rng = np.random.default_rng(seed)
    hardness = {letter: rng.uniform(0, 1) for letter in letters}
    pools: list[Sequence[str]] = list(combinations(letters, 2))
    for size in (4, min(8, len(letters))):
        pools += [sorted(rng.choice(list(letters), size, replace=False)) for _ in range(groups)]
    lines = [
        _line(name, "".join(pool), method, hardness, rng)
        for pool in dict.fromkeys(map(tuple, pools))
        for method in METHODS
    ]
    experts = {f"{name}-{x}": {"seed": k, "score": 1.0} for k, x in enumerate(letters)}
    about: dict[str, Any] = {"architecture": f"kind of {name}", "experts": experts}
    return Bed(name=name, about=about, lines=tuple(lines))


def _line(
    bed: str, pool: str, method: str, hardness: dict[str, float], rng: np.random.Generator
) -> RegistryLine:
    losses, scores = {}, {}
    for expert in pool:
        loss = -100 * min(1.0, max(0.0, hardness[expert] * rng.uniform(0.2, 1.6)))
        share = min(1.0, max(0.0, -loss / 100 + rng.normal(0, 0.04)))
        losses[expert] = float(round(loss))
        scores[expert] = {score: round(float(rng.uniform(0, 1)), 3) for score in SCORES}
        scores[expert] |= {"disagreement": round(share * 64) / 64, "surrogate": round(share, 2)}
        scores[expert]["disagreement_upper"] = min(1.0, share + 0.1)
        if len(pool) < 3:
            del scores[expert]["mds"]
    if len(pool) == 2:  # of a pair there is one number
        for score in ("cosine", "mean_distance", "magnitude_change_ratio", "sign_change_ratio"):
            scores[pool[1]][score] = scores[pool[0]][score]
    return made(pool, method, base=bed, losses=losses, scores=scores)
