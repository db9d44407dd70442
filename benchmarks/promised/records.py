"""Recorded merges that never were: lines of a registry, and what is read from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promised.gates import BASE
from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.history.past import Past
from pytest_mergegate.history.registry.lines import SCHEMA, RegistryLine, line_id
from pytest_mergegate.history.registry.reading import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.history.calibration.fit import Calibration

    Rng = np.random.Generator

COMPARED = 64
SCORED = 100
EXPERTS = 8
"""How many a team has whose losses it measured."""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What one merge does to one expert."""

    rate: float
    """Its true disagreement."""
    loss: float
    """Its true loss, a share."""

    @classmethod
    def drawn(cls, rng: Rng, hard: float, *, loss: float | None = None) -> Fate:
        """A merge of a pool that is so ``hard``; between a half and all of the answers that differ
        are lost. With a ``loss`` given, the disagreement that goes with it."""
        costs = rng.uniform(0.5, 1.0)
        if loss is not None:
            return cls(rate=min(1.0, loss / costs), loss=loss)
        rate = min(1.0, hard * rng.uniform(0.3, 1.7))
        return cls(rate=rate, loss=costs * rate)

    def compared(self, rng: Rng, inputs: int = COMPARED) -> int:
        """How many inputs are answered differently."""
        return int(rng.binomial(inputs, self.rate))

    def measured(self, rng: Rng) -> float:
        """The loss in percent, negative when worse, on examples of its own."""
        return -100 * float(rng.binomial(SCORED, self.loss)) / SCORED


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Of what sort records are."""

    base: str = BASE
    metric: str = "exact_match"
    max_answer_tokens: int | None = None
    """None for the gate's own."""
    shared: int = 0
    compared: int = COMPARED

    def line(
        self, gate: Gate, pool: int, method: str, fates: Sequence[Fate], rng: Rng
    ) -> RegistryLine:
        """A line of the registry, as a gate on such a pool would have written it."""
        reading = gate.spec.reading_of("e0")
        if self.max_answer_tokens is not None:
            reading = reading.rsplit("=", 1)[0] + f"={self.max_answer_tokens}"
        # few experts, each merged with ever other partners, whose loss nobody measured
        own = f"{pool % EXPERTS}"
        experts = [self._expert(f"{own}-{k}", reading, fate, rng) for k, fate in enumerate(fates)]
        experts.append({**experts[0], "name": "partner", "fingerprint": f"{pool}", "loss": None})
        data = {
            "schema": SCHEMA,
            "base": self.base,
            "method": method.split(" ")[0],
            "label": method,
            "parameters": {},
            "weights": {one["name"]: 1 / len(experts) for one in experts},
            "settings": {"seed": 0, "probes": {"drawn_per_task": 5}},
            "versions": {},
            "distances": [],
            "experts": experts,
        }
        identified = {**data, "id": line_id(data), "created": "", "gate": ""}
        return RegistryLine.model_validate_json(json.dumps(identified))

    def _expert(self, name: str, reading: str, fate: Fate, rng: Rng) -> dict[str, Any]:
        loss = fate.measured(rng)
        return {
            "name": name,
            "fingerprint": name,
            "examples": None,
            "metric": self.metric,
            "reading": reading,
            "compared": self.compared,
            "scored": SCORED,
            "shared": self.shared,
            "scores": {"disagreement": fate.compared(rng, self.compared) / self.compared},
            "score_base": 0.0,
            "score_expert": 1.0,
            "score_merged": 1 + loss / 100,
            "loss": loss,
            "loss_interval": None,
        }


def past_of(lines: Sequence[RegistryLine]) -> Past:
    """What a registry of these lines says; what is fitted to them is kept, as in a gate's cache."""
    past = Past(None, Cache(folder=None))
    registry = Registry(path=Path("lines"), lines=tuple(lines), problems=(), exists=True)
    past.__dict__ |= {"registry": registry, "like": cache(past.like), "shipped": shipped()}
    return past


@cache
def shipped() -> Mapping[str, Calibration]:
    """What came with the package, read once."""
    return Past(None, Cache(folder=None)).shipped
