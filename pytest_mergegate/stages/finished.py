"""Stage 4 for a merge that exists already: asked the experts' own inputs, and compared as text with
what each expert says (THEORY 11).

Nothing but texts is compared, so that another vocabulary, template or precision is met as a user
would meet it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import FINISHED
from pytest_mergegate.engine.running.distances import Answer, Distances
from pytest_mergegate.engine.running.probes import read_own_answers
from pytest_mergegate.engine.running.workspace import own_processor
from pytest_mergegate.evaluation.comparing import same_or_not
from pytest_mergegate.evaluation.degenerate import degeneracy
from pytest_mergegate.merging.method import Method
from pytest_mergegate.stages.base_answers import with_base
from pytest_mergegate.stages.evaluate import reference_scores, score_merge
from pytest_mergegate.stages.fitted import fitted_change
from pytest_mergegate.stages.looks import until_decided
from pytest_mergegate.stages.merge import MergeResult
from pytest_mergegate.stages.merge_versus_experts import (
    DECODED,
    ChangedAnswer,
    MergedExpert,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.references import OwnAnswers
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.evaluation.scoring import Scored
    from pytest_mergegate.stages.context import Context, Results

TEXTS: Final = "texts_compared"
"""Why there is no number that takes tokens or states of both."""


def run(context: Context, earlier: Results) -> Iterator[Results]:
    """Ask experts, base and the finished merge. Raises GateError."""
    workspace = context.workspace
    yield (earlier := replace(earlier, device=workspace.device, computing=workspace.computing))
    context.tell("experts' own answers", 0.0)
    if not workspace.facts.has_head:
        workspace.engine.require_head()
    read_own_answers(workspace, context.executor, context.gate.spec.certificate.per_task)
    if any(draw.reading == "greedy" for draw in workspace.draws.values()):
        earlier = replace(earlier, answer_limit=workspace.answer_limit)
    yield (earlier := with_base(context, earlier))
    if context.reaches("eval"):
        yield (earlier := replace(earlier, scores=reference_scores(context)))
    method = finished_method(context)
    scored: dict[str, dict[str, Scored]] = {}
    key = context.key("finished", method=method.plain, processor=own_processor())
    found = workspace.kept(MergeResult, key, partial(_ask, context, earlier, method, scored))
    yield replace(earlier, methods=(method,), merges=(found,), scored=scored)


def finished_method(context: Context) -> Method:
    """What stands for the finished merge where merges go by their methods."""
    merged = context.pool.merged
    assert merged is not None
    return Method(
        label=FINISHED,
        name=FINISHED,
        parameters={},
        weights={},
        seed=0,
        takes_base=False,
        takes_weights=False,
        config={"fingerprint": merged.fingerprint, "dtype": merged.dtype},
    )


def _ask(
    context: Context, earlier: Results, method: Method, scored: dict[str, dict[str, Scored]]
) -> MergeResult:
    context.tell("the finished merge", 0.5)
    assert context.pool.merged is not None
    with context.answering(method) as engine:
        engine.answer_limit = context.workspace.answer_limit
        experts = tuple(_expert(context, engine, name) for name in context.pool.names)
        fitted = fitted_change(context, engine)
        found = MergeResult(
            method=method,
            fidelity=fitted.off if fitted is not None and len(experts) == 1 else None,
            fitted=fitted,
            digest=context.pool.merged.fingerprint,
            linearity_gap=Value.missing("made_elsewhere"),
            experts=tuple(_beside_base(context, expert) for expert in experts),
        )
        if context.reaches("eval"):
            scored[method.label] = score_merge(context, engine, found.experts, earlier.scores)
    return found


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Some inputs of one expert, one entry each."""

    inputs: tuple[int, ...]
    distances: Distances
    own: tuple[Answer, ...]
    merged: tuple[Answer, ...]

    def __add__(self, more: Self) -> Self:
        return type(self)(**{k: v + getattr(more, k) for k, v in vars(self).items()})


def _expert(context: Context, engine: Engine, name: str) -> MergedExpert:
    task, level = engine.tasks[name], context.gate.spec.level
    order, look = context.workspace.draws[name].order, partial(_look, context, engine, task)
    first = context.references.of(name, order[: context.gate.spec.certificate.per_task])
    compared = until_decided(context, name, order, look(first), look)
    distances, seen = compared.distances, compared.distances.seen
    changed = sorted((k for k in range(distances.n) if seen[k] > 0), key=lambda k: (-seen[k], k))
    asked = range(min(DECODED, distances.n) if task.reading == "greedy" else distances.n)
    return MergedExpert(
        name=name,
        reading=task.reading,
        inputs=distances.n,
        planned=distances.n,
        compared_by=distances.comparison,
        cut=distances.cut,
        unended=sum(answer.cut for answer in compared.own),
        disagreement=distances.disagreement(level),
        least=distances.mean_least,
        most=distances.mean_most,
        disagreement_upper=distances.upper(level),
        token_agreement=None,
        total_variation=None,
        kl=None,
        distortion=None,
        relative_distortion=Value.missing(TEXTS),
        degenerate=degeneracy(
            [compared.merged[k].text for k in asked],
            [compared.own[k].text for k in asked],
            [task.examples[compared.inputs[k]].choices for k in asked],
        )
        if 2 * len(changed) > distances.n
        else None,
        changed=tuple(
            ChangedAnswer(
                index=compared.inputs[k],
                expert=compared.own[k].text,
                merged=compared.merged[k].text,
                distance=seen[k],
                kl=None,
            )
            for k in changed
        ),
    )


def _look(context: Context, engine: Engine, task: Task, reference: OwnAnswers) -> _Compared:
    said = answers_of(engine, task, reference.inputs)
    compare = context.workspace.comparer(task.name) or same_or_not
    return _Compared(
        inputs=reference.inputs,
        distances=compare(reference.said, said),
        own=tuple(reference.said),
        merged=tuple(said),
    )


def answers_of(engine: Engine, task: Task, inputs: Sequence[int]) -> list[Answer]:
    """What the loaded model says, or the label or choice that it picks, which is never cut."""
    if task.reading == "greedy":
        return engine.said(task, inputs)
    return [Answer(text=text, cut=False) for text in engine.outputs(task, inputs)]


def _beside_base(context: Context, expert: MergedExpert) -> MergedExpert:
    """With how many of the worst changed answers are what the base says to the same inputs."""
    worst = expert.changed[:DECODED]
    if not worst:
        return expert
    engine = context.workspace.engine
    task = engine.tasks[expert.name]
    said = answers_of(engine, task, [case.index for case in worst])
    same = sum(own.text == case.merged for own, case in zip(said, worst, strict=True))
    return replace(expert, as_base=(len(worst), same))
