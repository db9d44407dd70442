"""What was asked, what the stages found, and the verdicts, as records of the report."""

import datetime
import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.records import interval_of
from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.metrics.pairwise import RATIOS
from pytest_mergegate.planning.forecasts import PlanRecord, curve_records
from pytest_mergegate.planning.serving import serving_of
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.report.merge_build import forecast_records, merge_record
from pytest_mergegate.report.pool_records import (
    BaseRecord,
    BoundsRecord,
    ConflictsRecord,
    ExpertRecord,
    FinishedRecord,
    PairRecord,
    TensorRecord,
)
from pytest_mergegate.report.types import (
    DiagnosisRecord,
    FindingRecord,
    PredictionRecord,
    RemedyRecord,
    ServingRecord,
    VerdictRecord,
)
from pytest_mergegate.stages.conflict import PartConflicts
from pytest_mergegate.verdict.diagnosis import Diagnosis
from pytest_mergegate.verdict.evidence import Case, base_disagreement
from pytest_mergegate.verdict.judge import Judgement, Verdict

_KEPT = {"probes", "conflict", "certificate", "budget", "judge", "merge", "ignore"}
"""The sections of a gate file that are settings as they stand."""


def now() -> str:
    """This moment in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("pytest-mergegate", "torch", "transformers", "peft", "mergekit", "safetensors")
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(PackageNotFoundError):  # preflight runs without torch
            found[name] = version(name)
    return found


def gate_settings(gate: Gate, case: Case | None) -> dict[str, Any]:
    """The settings of a gate that its numbers depend on, as far as ``case`` knows them; it is None
    where the pool could not be read."""
    positions, drawn = (case.positions, case.probes) if case else (None, None)
    spec, experts = gate.spec, gate.spec.experts.items()
    settings = spec.model_dump(mode="json", include=_KEPT | {"trust_remote_code"})
    if spec.merged is not None:
        del settings["merge"]
        settings["merged"] = spec.merged
    settings["probes"] |= spec.probes.drawn | {"positions": positions or spec.probes.positions}
    if case and case.answer_limit is not None:
        settings["probes"]["answer_limit"] = case.answer_limit
    settings["probes"]["drawn_per_task"] = drawn or spec.probes.per_task
    settings["dtype"] = spec.precision
    settings["score"] = {name: e.score for name, e in experts if e.score is not None}
    settings["metric"] = {name: e.metric for name, e in experts}
    settings["examples"] = dict(case.pool.examples_fingerprint) if case else {}
    # how answers are read, beside the metric
    settings["reading"] = {
        name: {key: how for key, how in e.how_read.items() if key != "metric"}
        for name, e in experts
    }
    computing = case.computing.items() if case else ()
    if wider := {own: how for own, how in computing if own != how}:
        settings["computing"] = wider
    if gate.mergekit is not None and gate.mergekit.why_official and spec.merged is None:
        settings["mergekit"] = dict(gate.mergekit.config)
    return settings


def sections(
    case: Case | None,
    judgement: Judgement | None,
    gate: Gate,
    hint: PlanRecord | None,
) -> dict[str, Any]:
    """Every part of the report that comes from stages and verdicts."""
    if case is None:
        return {}
    base = case.pool.base
    hashed = base.fingerprint if case.conflict or case.hidden else base.known_fingerprint
    return {
        "base": BaseRecord.of(
            base,
            ref=base.reference,
            fingerprint=hashed,
            fingerprint_reason=None if hashed else "not_hashed",
        ),
        "experts": tuple(_expert(expert, case) for expert in case.pool.experts),
        "merged": _finished(case),
        "pairs": tuple(_pairs(case)),
        "conflicts": _conflicts(case),
        "bounds": _bounds(case),
        "forecasts": tuple(forecast_records(case)),
        "merges": tuple(merge_record(merge, case) for merge in case.merges),
        "untried": tuple(
            m.label for m in case.methods if case.merges and case.merge(m.label) is None
        ),
        "predictions": tuple(
            PredictionRecord.of(p, interval=interval_of(p.loss), merges=p.merges or None)
            for p in case.predictions
        ),
        "plan": _plan(case, hint),
        "verdicts": tuple(verdict(v, gate) for v in (judgement.verdicts if judgement else ())),
        "serving": _serving(case, judgement),
    }


def _serving(case: Case, judgement: Judgement | None) -> tuple[ServingRecord, ...]:
    """How the pool would be served unmerged, once it was merged here and no merge passes."""
    made = case.merges and case.pool.merged is None
    if judgement is None or judgement.status != "fail" or not made:
        return ()
    return tuple(map(ServingRecord.of, serving_of(case.pool)))


def diagnosis(found: Diagnosis) -> DiagnosisRecord:
    """A diagnosis as the report holds it."""
    cause = found.cause
    return DiagnosisRecord.of(
        found,
        cause=cause and str(cause),
        kind=cause and cause.kind,
        figures=(cause and cause.figures) or None,
        cures=tuple(remedy.text for remedy in found.remedies),
    )


def remedies(found: Sequence[Diagnosis]) -> tuple[RemedyRecord, ...]:
    """The ways out, which are the same for every expert that is over budget."""
    return tuple(map(RemedyRecord.of, found[0].remedies)) if found else ()


def diagnosis_finding(diagnosed: DiagnosisRecord) -> Finding:
    """The finding that names a diagnosed expert."""
    return Finding(
        code="MG401",
        severity="error",
        expert=diagnosed.expert,
        message="; ".join(diagnosed.facts) or "over budget",
        fix="; or ".join(diagnosed.cures),
    )


def finding(found: Finding, gate: Gate | None) -> FindingRecord:
    """A finding as the report holds it; ``gate`` is None where the gate file is unreadable."""
    message = found.message
    if gate is not None and not gate.spec.certificate.shown:
        message = found.discreet or message
    line = found.line or (gate and _line(gate, found.expert))
    return FindingRecord.of(found, message=message, line=line)


def verdict(judged: Verdict, gate: Gate) -> VerdictRecord:
    """A verdict as the report holds it."""
    unknown = math.isnan(judged.limit)
    return VerdictRecord.of(
        judged,
        limit=None if unknown else judged.limit,
        limit_reason="needs_more_collapses" if unknown else None,
        interval=interval_of(judged.value),
        line=_line(gate, judged.expert),
    )


def _line(gate: Gate, expert: str | None) -> int | None:
    """Where the gate file names ``expert``, or else its experts."""
    own = ("experts", expert) if expert else ("experts",)
    return gate.lines.get(own) or gate.lines.get(("experts",)) or (1 if gate.path else None)


def _expert(expert: Expert, case: Case) -> ExpertRecord:
    states = case.hidden.experts[expert.name] if case.hidden else None
    return ExpertRecord.of(
        expert,
        ref=expert.reference,
        mds=states and states.mds,
        mean_similarity=states and states.mean_similarity,
        shift=states and states.shift,
        norm=case.conflict and Value(number=case.conflict.norms[expert.name]),
        base_disagreement=base_disagreement(expert.name, case) if case.base is not None else None,
    )


def _finished(case: Case) -> FinishedRecord | None:
    merged = case.pool.merged
    return FinishedRecord.of(merged, ref=merged.reference) if merged is not None else None


def _pairs(case: Case) -> Iterator[PairRecord]:
    if case.conflict is None:
        return
    names, hidden = case.pool.names, case.hidden
    apart: dict[str, Value | None] = dict.fromkeys(
        ("distance", "distance_squared", "hidden_similarity")
    )
    for pair in case.conflict.pairs:
        i, j = names.index(pair.a), names.index(pair.b)
        if hidden is not None:
            apart["distance"] = Value(number=float(hidden.distances[i, j]))
            apart["distance_squared"] = Value(number=float(hidden.squared[i, j]))
            apart["hidden_similarity"] = (
                Value.missing(hidden.similarity_reason or "undefined")
                if hidden.similarity is None
                else Value(number=float(hidden.similarity[i, j]))
            )
        layers = {
            ratio: tuple(_known(layer.ratios[ratio][i, j]) for layer in case.conflict.layers)
            for ratio in RATIOS
        }
        yield PairRecord.of(pair, **apart, layers=layers)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def _conflicts(case: Case) -> ConflictsRecord | None:
    """What holds for all pairs: the mode, the layers, and every tensor."""
    if case.conflict is None:
        return None
    asked = case.pool.spec.conflict
    return ConflictsRecord(
        mode=asked.mode,
        rows=asked.rows if asked.mode == "sampled" else None,
        layers=tuple(layer.name for layer in case.conflict.layers),
        tensors=tuple(_tensor(tensor, case.pool.names) for tensor in case.conflict.tensors),
    )


def _tensor(part: PartConflicts, names: Sequence[str]) -> TensorRecord:
    a, b = np.triu_indices(len(names), 1)
    found = {ratio: part.ratios[ratio][a, b] for ratio in RATIOS}
    known = {ratio: values[~np.isnan(values)] for ratio, values in found.items()}
    worst = None
    if known["conflicting_magnitude_ratio"].size:
        k = int(np.nanargmax(found["conflicting_magnitude_ratio"]))
        worst = (names[int(a[k])], names[int(b[k])])
    means = {ratio: float(v.mean()) if v.size else None for ratio, v in known.items()}
    return TensorRecord(name=part.name, worst_pair=worst, **means)


def _bounds(case: Case) -> BoundsRecord | None:
    if case.hidden is None:
        return None
    bounds = case.hidden.bounds
    linear = next((m for m in case.merges if m.method.traits.has_linearity_gap), None)
    no_gap = Value.missing("no_linear_merge") if case.merges else None
    return BoundsRecord.of(
        bounds,
        own_input_distortion={n: v.number for n, v in bounds.own_input_distortion.items()},
        linearity_gap=linear.linearity_gap if linear else no_gap,
    )


def _plan(case: Case, hint: PlanRecord | None) -> PlanRecord | None:
    """The curve; of a gate that did not pass also groups, and who to leave out."""
    if case.hidden is None:
        return None
    curve = curve_records(metrics.distortion_curve(case.hidden.squared), case.hidden.states.names)
    return (hint or PlanRecord()).model_copy(update={"curve": curve})
