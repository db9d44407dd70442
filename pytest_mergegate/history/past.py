"""What past merges say: the team's registry, and the merges that came with the package."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from importlib import resources
from pathlib import Path

from pydantic import TypeAdapter

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.engine.running.workspace import own_code
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.gate.spec import PREDICTION
from pytest_mergegate.history.calibration.fit import Calibration, Residuals
from pytest_mergegate.history.calibration.observations import Observation, observations
from pytest_mergegate.history.registry.reading import Registry, read_registry, told
from pytest_mergegate.metrics import Undefined

SCORES = ("disagreement", "surrogate", "states")
"""What losses are predicted from."""


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
        return read_registry(self._path)

    @cached_property
    def observations(self) -> tuple[Observation, ...]:
        """What the registry says of every expert under every merge."""
        return observations(self.registry.lines) if self.registry is not None else ()

    def compared_by(self, comparison: str) -> Mapping[str, Calibration]:
        """By those of the registry's merges whose answers were compared so, for the scores that
        have been recorded often enough."""
        own = [one for one in self.observations if one.compared_by == comparison]
        return self._calibrated(own, [comparison], PREDICTION)

    def like(
        self, base: str | None, metric: str, reading: str, comparison: str, confidence: float
    ) -> tuple[Mapping[str, Calibration], int]:
        """The same, at that confidence, by those of its merges that are evidence of such losses,
        and on how many inputs of each expert their scores are, at most.

        Others are of another base, metric or reading, or their losses are not known to be of other
        inputs.
        """
        of = [base, metric, reading, comparison]
        own = [one for one in self.observations if one.is_like(base, metric, reading, comparison)]
        inputs = max((one.compared or sys.maxsize for one in own), default=0)
        return self._calibrated(own, of, confidence), inputs

    def _calibrated(
        self, own: Sequence[Observation], of: list[str | None], confidence: float
    ) -> Mapping[str, Calibration]:
        if self.registry is None or not own:
            return {}
        key = {
            "kind": "calibrations",
            "code": own_code(),
            "confidence": confidence,
            "lines": sorted(line.id for line in self.registry.lines),
            "of": of,
        }
        # the same for every confidence
        residuals = self._residuals.setdefault(str(of), [Residuals(own, s) for s in SCORES])

        def fitted() -> dict[str, Calibration]:
            found = {}
            for each in residuals:
                with suppress(Undefined):  # too few merges: there is nothing to predict from
                    found[each.score] = each.calibration(confidence)
            return found

        return self._cache.kept(dict[str, Calibration], key, fitted, counted=False)

    def shipped(self, comparison: str) -> Mapping[str, Calibration]:
        """By the beds' merges, for experts that nobody has seen; their answers were compared
        exactly, and say nothing of another comparison."""
        return self._shipped if comparison == EXACT else {}

    @cached_property
    def _shipped(self) -> Mapping[str, Calibration]:
        file = resources.files("pytest_mergegate.history.beds") / "calibrations.json"
        return TypeAdapter(dict[str, Calibration]).validate_json(file.read_bytes())

    def findings(self) -> Iterator[Finding]:
        """A warning of lines that were not used as they stand."""
        if self.registry is not None and self.registry.problems:
            yield Finding(
                code="MG701",
                severity="warning",
                message="; ".join(told(self.registry, most=3)),
                fix="mergegate calibrate lists all of them",
            )
