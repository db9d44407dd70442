"""Stage case and verdicts to the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_mergegate import metrics
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.values import Value
from pytest_mergegate.report.conflicts import conflicts_record, layer_ratios
from pytest_mergegate.report.planned import curve_records, hinted_records
from pytest_mergegate.report.types import (
    ApartRecord,
    BaseRecord,
    BoundsRecord,
    DiagnosisRecord,
    ExpertRecord,
    FindingRecord,
    ForecastRecord,
    MergedExpertRecord,
    MergeRecord,
    PairRecord,
    PlanRecord,
    PredictionRecord,
    VerdictRecord,
)
from pytest_mergegate.verdict.alone import base_disagreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_mergegate.common.records import Interval
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.planning.from_states import Hint
    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.stages.evaluate import Apart, EvaluateResult
    from pytest_mergegate.stages.merge import MergeResult
    from pytest_mergegate.stages.merge_versus_experts import MergedExpert
    from pytest_mergegate.verdict.case import Case
    from pytest_mergegate.verdict.diagnosis import Diagnosis
    from pytest_mergegate.verdict.judge import Judgement, Verdict
    from pytest_mergegate.verdict.predictions import Prediction

_NOT_RUN = "stage_not_run"


def fields(name: str, value: Value | None) -> dict[str, Any]:
    """``{name: number}``, or ``{name: null, name_reason: why}``."""
    if value is None:
        return {name: None, f"{name}_reason": _NOT_RUN}
    if value.number is not None and math.isinf(value.number):
        return {name: None, f"{name}_reason": "infinite"}
    found = {name: value.number, f"{name}_reason": value.reason}
    if value.standard_error is not None:
        found[f"{name}_standard_error"] = value.standard_error
    return found


def interval(value: Value | None) -> Interval | None:
    """The interval with null for an infinite end."""
    if value is None or value.interval is None:
        return None
    low, high = (None if math.isinf(end) else end for end in value.interval)
    return low, high


def sections(
    case: Case | None,
    judgement: Judgement | None,
    diagnoses: Sequence[Diagnosis],
    gate: Gate,
    hint: Hint | None,
) -> dict[str, Any]:
    """Every part of the report that comes from stages and verdicts."""
    if case is None:
        return {}
    base = case.pool.base
    found = base.fingerprint if case.conflict or case.hidden else base.known_fingerprint
    return {
        "base": BaseRecord(
            ref=case.pool.base.reference,
            fingerprint=found,
            fingerprint_reason=None if found else "not_hashed",
            architecture=case.pool.base.architecture,
            parameters=case.pool.base.parameters,
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
    return DiagnosisRecord(
        expert=found.expert,
        cause=found.cause,
        nearest=found.nearest,
        farthest=found.farthest,
        cures=tuple(remedy.text for remedy in found.remedies),
    )


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
    return FindingRecord(
        code=found.code,
        severity=found.severity,
        expert=found.expert,
        message=found.message,
        fix=found.fix,
        line=found.line or (gate and _line(gate, found.expert)),
    )


def verdict(judged: Verdict, gate: Gate) -> VerdictRecord:
    """A verdict as the report holds it."""
    number = judged.value.number
    return VerdictRecord(
        budget=judged.budget,
        limit=None if math.isnan(judged.limit) else judged.limit,
        limit_reason="needs_more_collapses" if math.isnan(judged.limit) else None,
        **fields("value", judged.value),
        value_infinite=number is not None and math.isinf(number),
        interval=interval(judged.value),
        expert=judged.expert,
        method=judged.method,
        basis=judged.basis,
        status=judged.status,
        message=judged.message,
        line=_line(gate, judged.expert),
    )


def _line(gate: Gate, expert: str | None) -> int | None:
    """Where the gate file names ``expert``, or else its experts."""
    own = ("experts", expert) if expert else ("experts",)
    return gate.lines.get(own) or gate.lines.get(("experts",)) or (1 if gate.path else None)


def _expert(expert: Expert, case: Case) -> ExpertRecord:
    states = case.hidden.experts[expert.name] if case.hidden else None
    norm = Value(number=case.conflict.norms[expert.name]) if case.conflict else None
    mds = states.mds if states else None
    base = base_disagreement(expert.name, case) if case.base is not None else None
    return ExpertRecord(
        name=expert.name,
        ref=expert.reference,
        fingerprint=expert.fingerprint,
        kind=expert.kind,
        **fields("mds", mds),
        mds_interval=interval(mds),
        mds_infinite=mds is not None and mds.number is not None and math.isinf(mds.number),
        **fields("mean_similarity", states.mean_similarity if states else None),
        **fields("shift", states.shift if states else None),
        **fields("norm", norm),
        **fields("base_disagreement", base),
    )


def _pairs(case: Case) -> Iterable[PairRecord]:
    if case.conflict is None:
        return
    hidden = case.hidden
    names = case.pool.names
    for pair in case.conflict.pairs:
        i, j = names.index(pair.a), names.index(pair.b)
        distance = squared = similarity = None
        if hidden is not None:
            distance = Value(number=float(hidden.distances[i, j]))
            squared = Value(number=float(hidden.squared[i, j]))
            similarity = (
                Value.missing(hidden.similarity_reason or "undefined")
                if hidden.similarity is None
                else Value(number=float(hidden.similarity[i, j]))
            )
        yield PairRecord(
            a=pair.a,
            b=pair.b,
            **fields("distance", distance),
            **fields("distance_squared", squared),
            **fields("hidden_similarity", similarity),
            **fields("magnitude_change_ratio", pair.magnitude_change_ratio),
            **fields("sign_change_ratio", pair.sign_change_ratio),
            **fields("sign_change_ratio_of_base", pair.sign_change_ratio_of_base),
            **fields("conflicting_magnitude_ratio", pair.conflicting_magnitude_ratio),
            **fields("cosine", pair.cosine),
            **fields("cosine_mean", pair.cosine_mean),
            layers=layer_ratios(case.conflict, i, j),
        )


def _bounds(case: Case) -> BoundsRecord | None:
    if case.hidden is None:
        return None
    bounds = case.hidden.bounds
    linear = next((m for m in case.merges if m.method.traits.has_linearity_gap), None)
    no_gap = Value.missing("no_linear_merge") if case.merges else None
    return BoundsRecord(
        diameter=bounds.diameter,
        **fields("relative_diameter", bounds.relative_diameter),
        minimum_distortion=bounds.minimum_distortion,
        weights=dict(bounds.weights),
        uniform_distortion=bounds.uniform_distortion,
        minimax_weights=dict(bounds.minimax_weights),
        own_input_distortion={n: v.number for n, v in bounds.own_input_distortion.items()},
        paper_bound=bounds.paper_bound,
        **fields("linearity_gap", linear.linearity_gap if linear else no_gap),
    )


def _forecasts(case: Case) -> Iterable[ForecastRecord]:
    for forecast in case.hidden.forecasts if case.hidden else ():
        yield ForecastRecord(
            method=forecast.method,
            expert=forecast.expert,
            kind=forecast.kind,
            reading=forecast.reading,
            inputs=forecast.inputs,
            **fields("disagreement", forecast.disagreement),
            **fields("disagreement_upper", forecast.disagreement_upper),
            **fields("kl", forecast.kl),
        )
    for surrogate in case.surrogates:
        for expert in surrogate.experts:
            yield ForecastRecord(
                method=surrogate.method,
                expert=expert.name,
                kind="surrogate",
                reading=expert.reading,
                inputs=expert.inputs,
                exact=surrogate.exact,
                **fields("disagreement", expert.disagreement),
                disagreement_interval=interval(expert.disagreement),
                disagreement_upper=expert.disagreement_upper,
                kl=expert.kl,
            )


def _merge(merge: MergeResult, case: Case) -> MergeRecord:
    label = merge.method.label
    evaluation = next((e for e in case.evaluations if e.method == label), None)
    worst, mean = _pool_losses(evaluation, case)
    return MergeRecord(
        method=label,
        parameters=dict(merge.method.parameters),
        weights=dict(merge.method.weights),
        fidelity=merge.fidelity,
        fidelity_reason="only_in_mergekit" if merge.fidelity is None else None,
        digest=merge.digest,
        experts=tuple(_merged_expert(expert, evaluation, case) for expert in merge.experts),
        **fields("worst_loss", worst),
        **fields("mean_loss", mean),
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


def _merged_expert(
    expert: MergedExpert, evaluation: EvaluateResult | None, case: Case
) -> MergedExpertRecord:
    scored = (
        next((e for e in evaluation.experts if e.name == expert.name), None) if evaluation else None
    )
    absent = None if evaluation is None else Value.missing("no_targets")
    scores = {
        key: Value(number=getattr(scored, key)) if scored else absent
        for key in ("score_base", "score_expert", "score_merged")
    }
    loss = scored.loss if scored else absent
    return MergedExpertRecord(
        name=expert.name,
        reading=expert.reading,
        inputs=expert.inputs,
        cut=expert.cut,
        disagreement=expert.disagreement.number,
        disagreement_interval=interval(expert.disagreement),
        disagreement_upper=expert.disagreement_upper,
        kl=expert.kl,
        distortion=expert.distortion,
        **fields("relative_distortion", expert.relative_distortion),
        degenerate=expert.degenerate,
        **{k: v for key, value in scores.items() for k, v in fields(key, value).items()},
        **fields("loss", loss),
        loss_interval=interval(loss),
        **fields("retention", scored.retention if scored else absent),
        scored=scored.examples if scored else None,
        shared=scored.shared if scored else None,
        apart=_apart(scored.apart) if scored and scored.apart else None,
    )


def _apart(found: Apart) -> ApartRecord:
    return ApartRecord(
        examples=found.examples,
        score_base=found.score_base,
        score_expert=found.score_expert,
        score_merged=found.score_merged,
        **fields("loss", found.loss),
        loss_interval=interval(found.loss),
    )


def _prediction(found: Prediction) -> PredictionRecord:
    return PredictionRecord(
        expert=found.expert,
        method=found.method,
        **fields("loss", found.loss),
        interval=interval(found.loss),
        source=found.source,
        confidence=found.confidence,
        score=found.score,
        merges=found.merges or None,
    )


def _plan(case: Case, diagnoses: Sequence[Diagnosis], hint: Hint | None) -> PlanRecord | None:
    """The curve; of a gate that did not pass also groups, and who to leave out: a remedy that was
    tried on the probes, else what the stored states say."""
    if case.hidden is None:
        return None
    curve = metrics.distortion_curve(case.hidden.squared)
    drops = (remedy.drop for found in diagnoses for remedy in found.remedies if remedy.drop)
    return PlanRecord(
        curve=curve_records(curve, case.hidden.states.names),
        drop=next(drops, hint.drop if hint is not None else ()),
        groups=hinted_records(hint) if hint is not None else (),
        at_least=hint.at_least if hint is not None else None,
    )
