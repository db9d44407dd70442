"""All that a judge knows of a gate: what the stages found, and what past merges say of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_mergegate.stages.results import Results

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.verdict.automatic import AutomaticLimit
    from pytest_mergegate.verdict.increases import Earlier
    from pytest_mergegate.verdict.predictions import Prediction


@dataclass(frozen=True, kw_only=True)
class Case(Results):
    """The results of the stages, with what was recorded of other merges."""

    predictions: tuple[Prediction, ...] = ()
    """Losses that were not measured; of one expert under one method, the best source first."""
    earlier: Earlier | None = None
    """What the baseline says of the gate; None where no baseline was given."""
    automatic: Mapping[str, AutomaticLimit] = field(default_factory=dict)
    """What the registry made of the limits that are ``auto@RATE``, by budget."""

    @classmethod
    def of(cls, results: Results, automatic: Mapping[str, AutomaticLimit]) -> Case:
        """The case of ``results``, before anything recorded is looked at."""
        return cls(**vars(results), automatic=automatic)
