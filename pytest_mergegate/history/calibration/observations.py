"""What calibrations learn from: one expert under one recorded merge."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.history.registry.lines import RegistryLine, ScoredExpert

COLLAPSE: Final = -30.0
"""Percent: an expert whose loss is worse has collapsed."""
LOWER_IS_RISKIER: Final = frozenset({"cosine", "token_agreement"})
SAME: Final = 1e-5
"""Scores are recorded with six digits: what is closer than this share of its size is the same."""
_ROUNDING: Final = 1e-9
"""Percent: what is lost to round-off."""


def is_collapse(loss: float) -> bool:
    """Whether a loss, negative percent, is a collapse, by more than round-off."""
    return loss < COLLAPSE - _ROUNDING


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One expert under one merge whose loss was measured."""

    merge: str
    """What was merged and how: measured again, it is the same."""
    pool: str
    """Base and experts, whatever the method."""
    base: str
    bed: str = ""
    """Where it comes from; empty for the team's own."""
    method: str
    """mergekit's name."""
    label: str
    """The method and its parameters."""
    expert: str
    """Fingerprint."""
    name: str
    metric: str = ""
    """By which its loss was measured."""
    reading: str | None = None
    """How its answers were read; None where that is not known, like the following."""
    compared: int | None = None
    """On how many inputs its answers were compared."""
    compared_by: str = EXACT
    """How they were: no number of one comparison says anything of another (THEORY 10)."""
    probes: int | None = None
    """On how many inputs of every task states were compared."""
    shared: int | None = None
    """How many of them its loss was measured on as well."""
    scores: Mapping[str, float]
    """By the names of ``registry.lines.SCORES``, infinite ones too; without what is missing."""
    loss: float
    """Percent, negative where the merge is worse."""

    def is_like(self, base: str | None, metric: str, reading: str, comparison: str) -> bool:
        """Whether it is evidence of what such a base, metric, reading and comparison of answers
        lose: not one whose loss and disagreement were found on the same inputs (THEORY 9)."""
        of = self.base, self.metric, self.reading, self.compared_by
        return self.shared == 0 and of == (base, metric, reading, comparison)

    @property
    def collapsed(self) -> bool:
        """Whether the expert did."""
        return is_collapse(self.loss)

    def risk(self, score: str) -> float:
        """A score that it has, turned where it has to be, so that more is riskier."""
        return as_risk(score, self.scores[score])


def as_risk(score: str, value: float) -> float:
    """A value of a score, turned where it has to be, so that more is riskier; or turned back."""
    return -value if score in LOWER_IS_RISKIER else value


def comparison_of(observations: Iterable[Observation]) -> str:
    """How the answers of all of them were compared, on which their scores and so every result
    rests. Raises ValueError where that was not the same for all: select those of one comparison."""
    found = sorted({one.compared_by for one in observations}) or [EXACT]
    if len(found) > 1:
        raise ValueError(f"merges compared by {' and by '.join(found)} say nothing together")
    return found[0]


def latest(lines: Iterable[RegistryLine]) -> dict[str, RegistryLine]:
    """Every merge once, as it was found last, by a key for what was merged and how.

    A merge that was measured several times, with other examples or versions, is one piece of
    evidence. Lines of two branches may stand in any order: what counts is when they were made.
    """
    found: dict[str, RegistryLine] = {}
    for line in lines:
        key = _merge_of(line)
        if key not in found or line.created >= found[key].created:
            found[key] = line
    return found


def observations(lines: Iterable[RegistryLine], bed: str = "") -> tuple[Observation, ...]:
    """What ``lines`` say of experts whose loss was measured, each merge as it was found last; of an
    expert whose answers were compared in two ways, each way as it was found last."""
    found: dict[tuple[str, str, int, str], tuple[RegistryLine, ScoredExpert]] = {}
    for line in lines:
        key, copies = _merge_of(line), Counter[str]()
        for expert in line.experts:
            own = (key, expert.fingerprint, copies[expert.fingerprint], expert.compared_by)
            copies[expert.fingerprint] += 1
            if own not in found or line.created >= found[own][0].created:
                found[own] = line, expert
    return tuple(
        Observation(
            merge=key,
            pool=line.pool,
            base=line.base,
            bed=bed,
            method=line.method,
            label=line.label,
            expert=expert.fingerprint,
            name=expert.name,
            metric=expert.metric,
            reading=expert.reading,
            compared=expert.compared,
            compared_by=expert.compared_by,
            probes=line.settings.get("probes", {}).get("drawn_per_task"),
            shared=expert.shared,
            scores={
                name: value
                for name in {*expert.scores, *expert.infinite}
                if (value := expert.score(name)) is not None
            },
            loss=expert.loss,
        )
        for (key, *_), (line, expert) in found.items()
        if expert.loss is not None
    )


def _merge_of(line: RegistryLine) -> str:
    """The same for a merge of the same weights in the same way, whatever it was measured with."""
    shares = {e.fingerprint: line.weights.get(e.name) for e in line.experts}
    said = [line.base, line.label, line.parameters, line.settings.get("seed"), shares]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
