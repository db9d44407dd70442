"""One line of the registry: one merge, the scores it had before, and what it cost every expert."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from pytest_mergegate.common.records import Number, Record
from pytest_mergegate.gate.sections import EXACT

SCHEMA: Final = "pytest-mergegate/registry/1"

SCORES: Final = {
    "disagreement": "the merge",
    "disagreement_upper": "the merge",
    "kl": "the merge",
    "token_agreement": "the merge",
    "total_variation": "the merge",
    "relative_distortion": "the merge",
    "surrogate": "the factors",
    "surrogate_kl": "the factors",
    "states": "the experts' states",
    "states_kl": "the experts' states",
    "mds": "the experts' states",
    "mean_distance": "the experts' states",
    "shift": "the experts' states",
    "norm": "the weights",
    "magnitude_change_ratio": "the weights",
    "sign_change_ratio": "the weights",
    "conflicting_magnitude_ratio": "the weights",
    "cosine": "the weights",
}
"""Every score of an expert under a merge, and what it takes to compute it. The larger the riskier,
except for ``cosine`` and ``token_agreement``. ``surrogate`` and ``disagreement`` are mean distances
of answers to the expert's own inputs (``ScoredExpert.compared_by``), ``states`` the share that is
answered differently; ``token_agreement`` and ``total_variation`` are of answers that are texts; the
ratios, the cosine and the distance are means over its partners."""


class ScoredExpert(Record):
    """One expert under the merge."""

    name: str
    fingerprint: str
    examples: str | None
    """Fingerprint of its examples; None where the report does not say."""
    metric: str
    reading: str | None = None
    """How answers are read (``GateSpec.reading_of``); None in lines that do not say."""
    compared: int | None = None
    """On how many inputs answers were compared; None in lines that do not say."""
    compared_by: str = EXACT
    """How (``ExpertSpec.comparison``); lines that do not say are older than other ways."""
    scored: int | None = None
    """On how many examples the loss was measured."""
    shared: int | None = None
    """How many of these were compared too; None where that is not known."""
    scores: dict[str, Number | None]
    """By the names in ``SCORES``; null, or left out, where there was none."""
    infinite: tuple[str, ...] = ()
    """The scores that are infinite, null above: an MDS may be."""
    score_base: Number | None
    score_expert: Number | None
    score_merged: Number | None
    loss: Number | None
    """Measured, in percent, negative where the merge is worse (Eq. 1); null where undefined."""
    loss_interval: tuple[Number | None, Number | None] | None
    gain_kept: Number | None = None
    """Share of what the expert adds to its base that was kept; null where it is not known to add
    anything, and in lines that do not say."""

    def score(self, name: str) -> float | None:
        """A score, infinite ones included; None where there was none."""
        return math.inf if name in self.infinite else self.scores.get(name)


class RegistryLine(Record):
    """One merge of one pool."""

    schema_: Literal["pytest-mergegate/registry/1"] = Field(SCHEMA, alias="schema")
    id: str
    """Over everything but ``created`` and ``gate``: the same merge measured again has the same."""
    created: str
    gate: str
    base: str
    """Fingerprint of the base."""
    method: str
    """mergekit's name."""
    label: str
    """The method and its parameters, as reports name it."""
    parameters: dict[str, bool | int | float | str]
    weights: dict[str, Number]
    settings: dict[str, Any]
    versions: dict[str, str]
    distances: tuple[Number | None, ...]
    """Mean hidden distances of the pairs i < j of ``experts``, row by row."""
    experts: tuple[ScoredExpert, ...]

    def to_json(self) -> str:
        """One line of JSON, without the newline: what it was made of, and so of the same id."""
        data = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    @property
    def pool(self) -> str:
        """The pool, whatever the method: base and experts."""
        return "|".join([self.base, *sorted(expert.fingerprint for expert in self.experts)])


def line_id(data: Mapping[str, Any]) -> str:
    """The id of a line's data."""
    kept = {k: v for k, v in data.items() if k not in {"id", "created", "gate"}}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
