"""Observations drawn from a world whose losses are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mergegate.history.calibration.observations import Observation

if TYPE_CHECKING:
    from collections.abc import Iterable

METHODS = {"linear": 0.0, "ties density=0.5": 0.3}


def observed(merge: str, expert: str, score: float, loss: float, **changes: Any) -> Observation:
    """One observation; its pool is what stands before the slash in ``merge``."""
    method = changes.pop("label", "linear")
    given: dict[str, Any] = {
        "merge": merge,
        "pool": merge.partition("/")[0],
        "base": "base",
        "method": method.split(" ")[0],
        "label": method,
        "expert": expert,
        "name": expert,
        "scores": {"disagreement": score},
        "loss": loss,
    }
    return Observation(**given | changes)


def world(
    seed: int, pools: int, experts: int = 8, size: int = 4, bed: str = ""
) -> list[Observation]:
    """Experts that are hurt more or less by the same disagreement, under two methods."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=experts) * 0.6
    found = []
    for pool in range(pools):
        members = rng.choice(experts, size, replace=False)
        hard = rng.random()
        for method, own in METHODS.items():
            for member in members:
                score = float(np.clip(rng.normal(hard, 0.3), 0, 1)) if rng.random() < 0.8 else 0.0
                spread = 12 * np.sqrt(score * (1 - score)) + 0.3
                wanted = -95 * score + spread * (effect[member] + own + rng.normal() / 2)
                found.append(
                    observed(
                        f"{bed}{pool}/{method}",
                        f"expert {member}",
                        score,
                        float(np.clip(wanted, -100, 30)),
                        label=method,
                        bed=bed,
                    )
                )
    return found


def merges_of(observations: Iterable[Observation]) -> set[str]:
    return {one.merge for one in observations}
