"""What was found of merges, as records of the report."""

from collections.abc import Iterator

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import FINISHED
from pytest_mergegate.report.changed import changed_records
from pytest_mergegate.report.merge_records import (
    ApartRecord,
    ForecastRecord,
    MergedExpertRecord,
    MergeRecord,
)
from pytest_mergegate.stages.evaluate import EvaluateResult
from pytest_mergegate.stages.finished import TEXTS
from pytest_mergegate.stages.merge import MergeResult
from pytest_mergegate.stages.merge_versus_experts import MergedExpert
from pytest_mergegate.verdict.evidence import Case

_MEASURED = ("score_base", "score_expert", "score_merged", "loss", "gain_kept", "retention")


def forecast_records(case: Case) -> Iterator[ForecastRecord]:
    """What was predicted of every expert under every method, by states and by sums."""
    yield from map(ForecastRecord.of, case.hidden.forecasts if case.hidden else ())
    for run in case.surrogates:
        told = {"method": run.method, "kind": "surrogate", "exact": run.exact}
        for expert in run.experts:
            yield ForecastRecord.of(expert, expert=expert.name, **told)


def merge_record(merge: MergeResult, case: Case) -> MergeRecord:
    """One merge, and what it does to every expert."""
    label = merge.method.label
    evaluation = next((e for e in case.evaluations if e.method == label), None)
    worst, mean = _pool_losses(evaluation, case)
    return MergeRecord.of(
        merge,
        method=label,
        parameters=merge.method.parameters,
        weights=merge.fitted.weights if merge.fitted else merge.method.weights,
        fidelity_reason=None if merge.fidelity is not None else _unheld(merge),
        experts=tuple(_merged_expert(expert, evaluation, case) for expert in merge.experts),
        worst_loss=worst,
        mean_loss=mean,
    )


def _unheld(merge: MergeResult) -> str:
    """Why a merge was held against nothing."""
    if merge.method.name == FINISHED:
        return "made_elsewhere"
    return "only_in_peft" if merge.method.traits.by_peft else "only_in_mergekit"


def _pool_losses(
    evaluation: EvaluateResult | None, case: Case
) -> tuple[Value | None, Value | None]:
    if evaluation is None:
        return None, None
    losses = [expert.loss.number for expert in evaluation.experts]
    known = [loss for loss in losses if loss is not None]
    if not losses:
        reason = "no_targets"
    elif len(losses) < len(case.pool.names):
        reason = "some_without_targets"
    elif len(known) < len(losses):
        reason = "some_undefined"
    else:
        pool = metrics.pool_losses(known)
        return Value(number=pool.worst), Value(number=pool.mean)
    return Value.missing(reason), Value.missing(reason)


def _merged_expert(
    expert: MergedExpert, evaluation: EvaluateResult | None, case: Case
) -> MergedExpertRecord:
    scores = evaluation.experts if evaluation else ()
    scored = next((e for e in scores if e.name == expert.name), None)
    absent = None if evaluation is None else Value.missing("no_targets")
    texts = TEXTS if expert.kl is None else None
    return MergedExpertRecord.of(
        expert,
        kl_reason=texts,
        distortion_reason=texts,
        **{name: getattr(scored, name) if scored else absent for name in _MEASURED},
        scored=scored and scored.examples,
        shared=scored and scored.shared,
        apart=ApartRecord.of(scored.apart) if scored and scored.apart else None,
        changed=changed_records(
            expert,
            case.pool.examples[expert.name],
            case.scores.get(expert.name),
            scored,
            case.pool.spec.certificate.shown,
        ),
    )
