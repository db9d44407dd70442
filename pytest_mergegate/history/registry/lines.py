"""One line of the registry: one merge, the scores it had before, and what it cost every expert."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from pytest_mergegate.gate.spec import MergeSpec, reading_text
from pytest_mergegate.report.types import Number, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_mergegate.report.types import MergedExpertRecord, MergeRecord, Report

SCHEMA: Final = "pytest-mergegate/registry/1"

SCORES: Final = {
    "disagreement": "the merge",
    "disagreement_upper": "the merge",
    "kl": "the merge",
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
but for ``cosine``. ``surrogate``, ``states`` and ``disagreement`` are shares of the expert's own
inputs that are answered differently; the ratios, the cosine and the distance are means over its
partners."""
_RATIOS = ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio", "cosine")


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
        """One line of JSON, without the newline."""
        data = self.model_dump(mode="json", by_alias=True)
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    @property
    def pool(self) -> str:
        """The pool, whatever the method: base and experts."""
        return "|".join([self.base, *sorted(expert.fingerprint for expert in self.experts)])


def lines_of(report: Report) -> tuple[RegistryLine, ...]:
    """One line for every merge of a report that measured a loss."""
    measured = [m for m in report.merges if any(e.loss is not None for e in m.experts)]
    return tuple(_line(report, merge) for merge in measured)


def line_id(data: Mapping[str, Any]) -> str:
    """The id of a line's data."""
    kept = {k: v for k, v in data.items() if k not in {"id", "created", "gate"}}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(report: Report, merge: MergeRecord) -> RegistryLine:
    assert report.base is not None
    methods = MergeSpec.model_validate(report.settings["merge"])
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "base": report.base.fingerprint,
        "method": methods.method_called(merge.method).method,
        "label": merge.method,
        "parameters": merge.parameters,
        "weights": {name: _round(weight) for name, weight in merge.weights.items()},
        "settings": _settings(report.settings),
        "versions": report.versions,
        "distances": [_round(pair.distance) for pair in report.pairs],
        "experts": [_expert(report, merge, one) for one in merge.experts],
    }
    identified = {**data, "id": line_id(data), "created": report.created, "gate": report.gate}
    return RegistryLine.model_validate_json(json.dumps(identified))


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What scores depend on beside pool and method."""
    kept = {name: settings[name] for name in ("dtype", "probes", "certificate", "conflict")}
    return {**kept, **{name: settings["merge"][name] for name in ("seed", "route")}}


def _expert(report: Report, merge: MergeRecord, one: MergedExpertRecord) -> dict[str, Any]:
    record = next(expert for expert in report.experts if expert.name == one.name)
    scores = {name: _round(value) for name, value in _scores(report, merge, one).items()}
    # a loss on inputs that were compared too is no evidence of what a disagreement costs
    measured = one.apart or one
    how = report.settings.get("reading", {}).get(one.name)
    most = report.settings.get("probes", {}).get("max_answer_tokens")
    return {
        "name": one.name,
        "fingerprint": record.fingerprint,
        "examples": report.settings.get("examples", {}).get(one.name),
        "metric": report.settings.get("metric", {}).get(one.name, "exact_match"),
        "reading": reading_text(how, most) if how and most else None,
        "compared": one.inputs,
        "scored": one.apart.examples if one.apart else one.scored,
        "shared": 0 if one.apart else one.shared,
        "scores": {name: value for name, value in scores.items() if value is not None},
        "infinite": ["mds"] if record.mds_infinite else [],
        "score_base": _round(measured.score_base),
        "score_expert": _round(measured.score_expert),
        "score_merged": _round(measured.score_merged),
        "loss": _round(measured.loss),
        "loss_interval": measured.loss_interval and [_round(end) for end in measured.loss_interval],
    }


def _scores(report: Report, merge: MergeRecord, one: MergedExpertRecord) -> dict[str, float | None]:
    expert = next(expert for expert in report.experts if expert.name == one.name)
    pairs = [pair for pair in report.pairs if one.name in (pair.a, pair.b)]
    forecasts = {
        f.kind: f for f in report.forecasts if (f.method, f.expert) == (merge.method, one.name)
    }
    states, surrogate = forecasts.get("states"), forecasts.get("surrogate")
    return {
        "disagreement": one.disagreement,
        "disagreement_upper": one.disagreement_upper,
        "kl": one.kl,
        "relative_distortion": one.relative_distortion,
        "surrogate": surrogate.disagreement if surrogate else None,
        "surrogate_kl": surrogate.kl if surrogate else None,
        "states": states.disagreement if states else None,
        "states_kl": states.kl if states else None,
        "mds": expert.mds,
        "mean_distance": _mean(pair.distance for pair in pairs),
        "shift": expert.shift,
        "norm": expert.norm,
        **{name: _mean(getattr(pair, name) for pair in pairs) for name in _RATIOS},
    }


def _mean(values: Iterable[float | None]) -> float | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known and len(known) == len(found) else None


def _round(value: float | None) -> float | None:
    """Six digits: what is beyond them differs between machines, and makes lines long."""
    return None if value is None else float(f"{value:.6g}")
