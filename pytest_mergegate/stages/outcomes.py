"""What came of each merge: made, compared and scored once, then kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.entries import pack_json, unpack_json
from pytest_mergegate.engine.running.workspace import own_processor
from pytest_mergegate.gate.spec import BUILTIN_METRICS
from pytest_mergegate.merging.method import is_sum
from pytest_mergegate.stages.evaluate import (
    Apart,
    EvaluateResult,
    ExpertScores,
    ReferenceScores,
    read_reference_scores,
    run_evaluate,
)
from pytest_mergegate.stages.merge import MergeResult, run_merge
from pytest_mergegate.stages.merge_versus_experts import (
    BaseAnswers,
    MergedExpert,
    compare_base,
    compare_loaded,
)
from pytest_mergegate.stages.references import References

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from pytest_mergegate.engine.running.workspace import Workspace
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.options import Scorer
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.stages.hidden import HiddenResult

    Timed = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One method's merge against every expert, and its measured losses where they are asked for."""

    merge: MergeResult
    evaluation: EvaluateResult | None


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """θ_0 + Σ λ_j τ_j against every expert: what a method's merge is expected to do (THEORY 6)."""

    method: str
    exact: bool
    """Whether it is the merge itself."""
    experts: tuple[MergedExpert, ...]

    def expert(self, name: str) -> MergedExpert:
        """The comparison with one expert."""
        return next(expert for expert in self.experts if expert.name == name)


class Outcomes:
    """The merges of one gate, from the cache where they were made before.

    ``timed`` is told which stage the time goes to; ``scorer`` is asked for scores first.
    """

    def __init__(
        self,
        workspace: Workspace,
        gate: Gate,
        hidden: HiddenResult,
        *,
        evaluate: bool,
        timed: Timed,
        scorer: Scorer | None = None,
    ) -> None:
        self._workspace = workspace
        self._gate = gate
        self._hidden = hidden
        self._evaluate = evaluate
        self._timed = timed
        self._scorer = scorer
        self._sums: dict[tuple[tuple[str, float], ...], tuple[MergedExpert, ...]] = {}

    @cached_property
    def scores(self) -> dict[str, ReferenceScores] | None:
        """Of base and experts by themselves; None where none are asked for."""
        if not self._evaluate:
            return None
        if not self._kept:
            return self._measured
        plain = self._workspace.cache.json(
            self._key("scores", scored=True),
            lambda: {n: _plain_scores(s) for n, s in self._measured.items()},
        )
        return {name: _scores(found) for name, found in plain.items()}

    @cached_property
    def base(self) -> dict[str, BaseAnswers]:
        """What the base by itself does on every expert's inputs: whether a merge that passes did
        anything (THEORY 9)."""
        return {name: self._base(name) for name in self._workspace.pool.names}

    def _base(self, name: str) -> BaseAnswers:
        workspace, spec = self._workspace, self._gate.spec
        key = workspace.key(
            "base's answers",
            expert=workspace.models[name],
            examples=workspace.pool.examples_fingerprint.get(name),
            read=spec.experts[name].how_read,
            inputs=workspace.draws[name].order[: spec.certificate.per_task],
            probes=spec.probes.model_dump(mode="json"),
        )
        found = workspace.cache.json(
            key, lambda: asdict(compare_base(workspace, self._references, name))
        )
        return BaseAnswers(**found)

    def of(self, method: Method) -> Outcome:
        """The outcome of ``method``. Raises GateError."""
        if not self._kept:
            return self._made(method)
        # another processor's merge may differ in the last bits, and so in its digest
        key = self._key(
            "merge", scored=self._evaluate, method=method.plain, processor=own_processor()
        )
        cache = self._workspace.cache
        found = cache.find(key)
        if found is not None:
            return _outcome(method, unpack_json(found))
        outcome = self._made(method)
        cache.keep(key, pack_json(_plain_outcome(outcome)))
        return outcome

    def surrogate(self, method: Method) -> Surrogate:
        """The sum of task vectors nearest to ``method``, against every expert like a merge.

        Raises GateError.
        """
        scales = self._hidden.scales[method.label]

        def run() -> tuple[MergedExpert, ...]:
            references, engine = self._references, self._workspace.engine
            with engine.mixed(f"sum:{dict(scales)}", scales):
                return compare_loaded(self._workspace, references, self._gate.spec)

        return Surrogate(method=method.label, exact=is_sum(method), experts=self._sum(scales, run))

    def _sum(
        self, scales: Mapping[str, float], run: Callable[[], tuple[MergedExpert, ...]]
    ) -> tuple[MergedExpert, ...]:
        """How θ_0 + Σ λ_j τ_j compares with the experts, run once."""
        known = tuple(scales.items())
        if known not in self._sums:
            key = self._key("sum", scored=False, scales=known)
            found = self._workspace.cache.json(key, lambda: [asdict(e) for e in run()])
            self._sums[known] = tuple(map(_merged_expert, found))
        return self._sums[known]

    @property
    def _kept(self) -> bool:
        """Whether results can be kept: code that is not ours may change from run to run."""
        metrics = {expert.metric for expert in self._gate.spec.experts.values()}
        return not self._evaluate or metrics <= {*BUILTIN_METRICS}

    def _key(self, kind: str, *, scored: bool, **more: Any) -> dict[str, Any]:
        spec, pool = self._gate.spec, self._workspace.pool
        metrics = {expert.metric for expert in spec.experts.values()}
        sequential = spec.certificate.max_per_task is not None
        return self._workspace.key(
            kind,
            experts=list(self._workspace.models.items()),
            examples=dict(pool.examples_fingerprint),
            read={name: expert.how_read for name, expert in spec.experts.items()},
            rouge=version("rouge-score") if scored and "rouge_l" in metrics else None,
            probes=spec.probes.model_dump(mode="json"),
            drawn=self._workspace.per_task,
            certificate=spec.certificate.model_dump(mode="json"),
            limits=spec.effective_budget.limits if sequential else None,
            levels=[spec.level, spec.loss_level],
            evaluate=scored,
            **more,
        )

    def _made(self, method: Method) -> Outcome:
        from pytest_mergegate.merging.merge import merge

        engine, scores, _ = self._workspace.engine, self.scores, self._references
        with self._timed("merge"):
            merged = merge(method, engine)
        with engine.model.swapped(f"merge:{method.label}", merged.weights):
            with self._timed("merge"):
                compared = self._compared(method)
                result = run_merge(engine, method, merged, self._hidden, compared)
            if scores is None:
                return Outcome(merge=result, evaluation=None)
            with self._timed("eval"):
                counts = {expert.name: expert.inputs for expert in compared}
                evaluation = run_evaluate(
                    engine, method.label, scores, self._gate, self._scorer, counts
                )
        return Outcome(merge=result, evaluation=evaluation)

    def _compared(self, method: Method) -> tuple[MergedExpert, ...]:
        """The loaded merge against every expert; that of a sum may have been run as a forecast."""

        def run() -> tuple[MergedExpert, ...]:
            return compare_loaded(self._workspace, self._references, self._gate.spec)

        return self._sum(self._hidden.scales[method.label], run) if is_sum(method) else run()

    @cached_property
    def _references(self) -> References:
        with self._timed("merge"):
            references = References(self._workspace)
            references.read(self._gate.spec.certificate.per_task)
        return references

    @cached_property
    def _measured(self) -> dict[str, ReferenceScores]:
        _ = self._references  # answers decoded there are not decoded again
        with self._timed("eval"):
            return read_reference_scores(self._workspace.engine, self._gate, self._scorer)


def _plain_scores(scores: ReferenceScores) -> dict[str, Any]:
    return {
        "base": scores.base.tolist(),
        "expert": scores.expert.tolist(),
        "chance": scores.chance,
        "of_outputs": scores.of_outputs,
    }


def _scores(plain: Mapping[str, Any]) -> ReferenceScores:
    return ReferenceScores(
        base=np.array(plain["base"], dtype=np.float64),
        expert=np.array(plain["expert"], dtype=np.float64),
        chance=plain["chance"],
        of_outputs=plain["of_outputs"],
    )


def _plain_outcome(outcome: Outcome) -> dict[str, Any]:
    merge, evaluation = outcome.merge, outcome.evaluation
    return {
        "fidelity": merge.fidelity,
        "digest": merge.digest,
        "linearity_gap": asdict(merge.linearity_gap),
        "experts": [asdict(expert) for expert in merge.experts],
        "scored": None if evaluation is None else [asdict(e) for e in evaluation.experts],
    }


def _outcome(method: Method, plain: Mapping[str, Any]) -> Outcome:
    scored = plain["scored"]
    evaluation = None
    if scored is not None:
        experts = tuple(map(_expert_scores, scored))
        evaluation = EvaluateResult(method=method.label, experts=experts)
    merge = MergeResult(
        method=method,
        fidelity=plain["fidelity"],
        digest=plain["digest"],
        linearity_gap=Value.of(plain["linearity_gap"]),
        experts=tuple(map(_merged_expert, plain["experts"])),
    )
    return Outcome(merge=merge, evaluation=evaluation)


def _expert_scores(plain: Mapping[str, Any]) -> ExpertScores:
    apart = plain["apart"] and Apart(**_with_values(plain["apart"], "loss"))
    return ExpertScores(**{**_with_values(plain, "loss", "retention"), "apart": apart})


def _merged_expert(plain: Mapping[str, Any]) -> MergedExpert:
    return MergedExpert(**_with_values(plain, "disagreement", "relative_distortion"))


def _with_values(plain: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**plain, **{name: Value.of(plain[name]) for name in names}}
