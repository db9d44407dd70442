"""What the stages found, and the verdicts, as records of the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_mergegate import metrics
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.records import interval_of
from pytest_mergegate.common.values import Value
from pytest_mergegate.planning.records import PlanRecord, curve_records
from pytest_mergegate.report.conflicts import conflicts_record, layer_ratios
from pytest_mergegate.report.pool_records import BaseRecord, BoundsRecord, ExpertRecord, PairRecord
from pytest_mergegate.report.types import (
    ApartRecord,
    DiagnosisRecord,
    FindingRecord,
    ForecastRecord,
    MergedExpertRecord,
    MergeRecord,
    PredictionRecord,
    VerdictRecord,
)
from pytest_mergegate.verdict.evidence import base_disagreement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.stages.evaluate import EvaluateResult
    from pytest_mergegate.stages.merge import MergeResult
    from pytest_mergegate.stages.merge_versus_experts import MergedExpert
    from pytest_mergegate.verdict.diagnosis import Diagnosis
    from pytest_mergegate.verdict.evidence import Case
    from pytest_mergegate.verdict.judge import Judgement, Verdict
    from pytest_mergegate.verdict.predictions import Prediction

_MEASURED = ("score_base", "score_expert", "score_merged", "loss", "retention")


def sections(
    case: Case | None,
    judgement: Judgement | None,
    diagnoses: Sequence[Diagnosis],
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
        "pairs": tuple(_pairs(case)),
        "conflicts": case.conflict and conflicts_record(case.conflict, case.pool),
        "bounds": _bounds(case),
        "forecasts": tuple(_forecasts(case)),
        "merges": tuple(_merge(merge, case) for merge in case.merges),
        "predictions": tuple(map(_prediction, case.predictions)),
        "plan": _plan(case, diagnoses, hint),
        "verdicts": tuple(verdict(v, gate) for v in (judgement.verdicts if judgement else ())),
    }


def diagnosis(found: Diagnosis) -> DiagnosisRecord:
    """A diagnosis as the report holds it."""
    return DiagnosisRecord.of(found, cures=tuple(remedy.text for remedy in found.remedies))


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
    return FindingRecord.of(found, line=found.line or (gate and _line(gate, found.expert)))


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


def _pairs(case: Case) -> Iterator[PairRecord]:
    if case.conflict is None:
        return
    names, hidden = case.pool.names, case.hidden
    for pair in case.conflict.pairs:
        i, j = names.index(pair.a), names.index(pair.b)
        apart: dict[str, Value | None] = dict.fromkeys(
            ("distance", "distance_squared", "hidden_similarity")
        )
        if hidden is not None:
            apart = {
                "distance": Value(number=float(hidden.distances[i, j])),
                "distance_squared": Value(number=float(hidden.squared[i, j])),
                "hidden_similarity": Value.missing(hidden.similarity_reason or "undefined")
                if hidden.similarity is None
                else Value(number=float(hidden.similarity[i, j])),
            }
        yield PairRecord.of(pair, **apart, layers=layer_ratios(case.conflict, i, j))


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


def _forecasts(case: Case) -> Iterator[ForecastRecord]:
    for forecast in case.hidden.forecasts if case.hidden else ():
        yield ForecastRecord.of(forecast)
    for surrogate in case.surrogates:
        for expert in surrogate.experts:
            yield ForecastRecord.of(
                expert,
                method=surrogate.method,
                expert=expert.name,
                kind="surrogate",
                exact=surrogate.exact,
            )


def _merge(merge: MergeResult, case: Case) -> MergeRecord:
    label = merge.method.label
    evaluation = next((e for e in case.evaluations if e.method == label), None)
    worst, mean = _pool_losses(evaluation, case)
    return MergeRecord.of(
        merge,
        method=label,
        parameters=merge.method.parameters,
        weights=merge.method.weights,
        fidelity_reason="only_in_mergekit" if merge.fidelity is None else None,
        experts=tuple(_merged_expert(expert, evaluation) for expert in merge.experts),
        worst_loss=worst,
        mean_loss=mean,
    )


def _pool_losses(
    evaluation: EvaluateResult | None, case: Case
) -> tuple[Value | None, Value | None]:
    if evaluation is None:
        return None, None
    losses = [expert.loss.number for expert in evaluation.experts]
    if not losses:
        return Value.missing("no_targets"), Value.missing("no_targets")
    if len(losses) < len(case.pool.names):
        return Value.missing("some_without_targets"), Value.missing("some_without_targets")
    known = [loss for loss in losses if loss is not None]
    if len(known) < len(losses):
        return Value.missing("some_undefined"), Value.missing("some_undefined")
    pool = metrics.pool_losses(known)
    return Value(number=pool.worst), Value(number=pool.mean)


def _merged_expert(expert: MergedExpert, evaluation: EvaluateResult | None) -> MergedExpertRecord:
    scores = evaluation.experts if evaluation else ()
    scored = next((e for e in scores if e.name == expert.name), None)
    absent = None if evaluation is None else Value.missing("no_targets")
    return MergedExpertRecord.of(
        expert,
        **{name: getattr(scored, name) if scored else absent for name in _MEASURED},
        scored=scored and scored.examples,
        shared=scored and scored.shared,
        apart=ApartRecord.of(scored.apart) if scored and scored.apart else None,
    )


def _prediction(found: Prediction) -> PredictionRecord:
    more = {"interval": interval_of(found.loss), "merges": found.merges or None}
    return PredictionRecord.of(found, **more)


def _plan(case: Case, diagnoses: Sequence[Diagnosis], hint: PlanRecord | None) -> PlanRecord | None:
    """The curve; of a gate that did not pass also groups, and who to leave out: a remedy that was
    tried on the probes, else what the stored states say."""
    if case.hidden is None:
        return None
    curve = metrics.distortion_curve(case.hidden.squared)
    drops = (remedy.drop for found in diagnoses for remedy in found.remedies if remedy.drop)
    hint = hint or PlanRecord()
    told = {"curve": curve_records(curve, case.hidden.states.names)}
    return hint.model_copy(update={**told, "drop": next(drops, hint.drop)})
