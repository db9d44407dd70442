"""What past merges say: the team's registry, and the merges that came with the package."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.gate.spec import PREDICTION
from pytest_mergegate.metrics import Undefined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_mergegate.engine.running.cache import Cache
    from pytest_mergegate.history.calibration.fit import Calibration, Residuals
    from pytest_mergegate.history.calibration.observations import Observation
    from pytest_mergegate.history.registry.reading import Registry

SCORES = ("disagreement", "surrogate", "states")
"""What losses are predicted from."""


@dataclass(frozen=True, kw_only=True)
class Like:
    """What recorded merges say of losses of one base, metric and reading."""

    calibrations: Mapping[str, Calibration]
    """By score."""
    inputs: int
    """On how many inputs of each expert their scores are, at most."""


class Past:
    """Read, and calibrated on, when it is first asked."""

    def __init__(self, registry: Path | None, cache: Cache) -> None:
        self._path = registry
        self._cache = cache
        self._residuals: dict[str, list[Residuals]] = {}

    @cached_property
    def registry(self) -> Registry | None:
        """The team's own; None where there is no such file. Raises GateError."""
        if self._path is None or not self._path.exists():
            return None
        from pytest_mergegate.history.registry.reading import read_registry

        return read_registry(self._path)

    @cached_property
    def observations(self) -> tuple[Observation, ...]:
        """What the registry says of every expert under every merge."""
        from pytest_mergegate.history.calibration.observations import observations

        return observations(self.registry.lines) if self.registry is not None else ()

    @cached_property
    def calibrations(self) -> Mapping[str, Calibration]:
        """By the registry, for the scores that have been recorded often enough."""
        return self._calibrated(self.observations, None, PREDICTION)

    def like(self, base: str | None, metric: str, reading: str, confidence: float) -> Like:
        """The same, at that confidence, by those of its merges that are evidence of such losses:
        others are of another base, metric or reading, or their losses are not known to be of other
        inputs."""
        own = [one for one in self.observations if one.is_like(base, metric, reading)]
        return Like(
            calibrations=self._calibrated(own, [base, metric, reading], confidence),
            inputs=max((one.compared or sys.maxsize for one in own), default=0),
        )

    def _calibrated(
        self, own: Sequence[Observation], of: list[str | None] | None, confidence: float
    ) -> Mapping[str, Calibration]:
        if self.registry is None or not own:
            return {}
        from pytest_mergegate.history.calibration.stored import from_plain, own_code

        key = {
            "kind": "calibrations",
            "code": own_code(),
            "confidence": confidence,
            "lines": sorted(line.id for line in self.registry.lines),
            "of": of,
        }
        plain = self._cache.json(
            key, lambda: _fitted(self._residuals_of(own, of), confidence), counted=False
        )
        return {score: from_plain(found) for score, found in plain.items()}

    def _residuals_of(
        self, own: Sequence[Observation], of: list[str | None] | None
    ) -> Sequence[Residuals]:
        """By score; the same for every confidence."""
        from pytest_mergegate.history.calibration.fit import Residuals

        return self._residuals.setdefault(str(of), [Residuals(own, score) for score in SCORES])

    @cached_property
    def shipped(self) -> Mapping[str, Calibration]:
        """By the beds' merges, for experts that nobody has seen."""
        from pytest_mergegate.history.calibration.stored import from_plain

        file = resources.files("pytest_mergegate.history.beds") / "calibrations.json"
        plain = json.loads(file.read_text("utf-8"))
        return {score: from_plain(found) for score, found in plain.items()}

    def findings(self) -> Iterator[Finding]:
        """A warning of lines that were not used as they stand."""
        if self.registry is None or not self.registry.problems:
            return
        from pytest_mergegate.history.registry.reading import told

        yield Finding(
            code="MG701",
            severity="warning",
            message="; ".join(told(self.registry, most=3)),
            fix="mergegate calibrate lists all of them",
        )


def _fitted(residuals: Sequence[Residuals], confidence: float) -> dict[str, Any]:
    from pytest_mergegate.history.calibration.stored import to_plain

    found = {}
    for each in residuals:
        try:
            found[each.score] = to_plain(each.calibration(confidence))
        except Undefined:
            continue  # too few merges: there is nothing to predict from
    return found
