"""On how many of its inputs an expert is compared with a merge: no more than it takes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from pytest_mergegate.evaluation.scoring import score_outputs
from pytest_mergegate.gate.sections import BUILTIN_METRICS
from pytest_mergegate.stages.measured import measured_loss
from pytest_mergegate.stages.merge_versus_experts import (
    compare_inputs,
    first_shown,
    is_decoded,
    merged_expert,
)

if TYPE_CHECKING:  # which import torch, or are types alone
    from collections.abc import Callable, Mapping, Sequence

    from pytest_mergegate.engine.running.distances import Distances
    from pytest_mergegate.engine.running.references import OwnAnswers
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.stages.context import Context
    from pytest_mergegate.stages.measured import ReferenceScores
    from pytest_mergegate.stages.merge_versus_experts import ComparedInputs, MergedExpert


class Comparison(Protocol):
    """What is found on some inputs, to which more can be added."""

    @property
    def distances(self) -> Distances:
        """Of the answers."""

    def __add__(self, more: Self) -> Self:
        """On more inputs."""


C = TypeVar("C", bound=Comparison)


def compare_loaded(
    context: Context, scores: Mapping[str, ReferenceScores] | None = None
) -> tuple[MergedExpert, ...]:
    """The loaded model against every expert, whose own ``scores`` tell what it has lost of them."""
    engine, spec = context.workspace.engine, context.gate.spec
    tasks = [engine.tasks[name] for name in context.pool.names]
    compared = [*zip(tasks, looked_at(context, tasks, scores or {}), strict=True)]
    shown = [first_shown(context, task, found) for task, found in compared]
    pairs = zip(tasks, shown, strict=True)
    engine.answer([(task, inputs) for task, inputs in pairs if task.reading == "greedy"])
    return tuple(
        merged_expert(engine, *each, inputs, spec)
        for each, inputs in zip(compared, shown, strict=True)
    )


def looked_at(
    context: Context, tasks: Sequence[Task], scores: Mapping[str, ReferenceScores]
) -> list[ComparedInputs]:
    """The loaded model on as many inputs of each of ``tasks`` as it takes.

    Where ``certificate.sequential`` allows for it, an expert that is over a limit beyond doubt on
    its first inputs is compared on no more; where ``max_per_task`` does, one whose verdict is open
    is compared on twice as many, and again.
    """
    count = context.gate.spec.certificate.per_task
    references = {task.name: context.references.of(task.name, task.order[:count]) for task in tasks}
    looks = {task.name: (*context.early_looks(task.name), count) for task in tasks}
    compared: dict[str, ComparedInputs] = {}
    failed: set[str] = set()
    for look in sorted({look for own in looks.values() for look in own}):
        asked = [task for task in tasks if look in looks[task.name] and task.name not in failed]
        _read(context, asked, look)
        for task in asked:
            known = compared.get(task.name)
            reference = references[task.name].part(known.distances.n if known else 0, look)
            found = compare_inputs(context, task, reference)
            compared[task.name] = known + found if known else found
            if look < count and _fails(context, task, compared[task.name], scores):
                failed.add(task.name)
    return [
        compared[task.name]
        if task.name in failed
        else until_decided(
            context,
            task.name,
            task.order,
            compared[task.name],
            partial(compare_inputs, context, task),
        )
        for task in tasks
    ]


def _read(context: Context, tasks: Sequence[Task], count: int) -> None:
    """All that is compared of the first ``count`` inputs in any case at once: the more rows, the
    sooner each is read."""
    engine = context.workspace.engine
    told = [(task, task.order[:count]) for task in tasks if is_decoded(context, task)]
    engine.answer(told, with_states=True, to_score=True)
    positions = engine.require_head().answer_positions
    engine.states([(task, task.order[:count]) for task in tasks], positions)


def _fails(
    context: Context, task: Task, compared: ComparedInputs, scores: Mapping[str, ReferenceScores]
) -> bool:
    """Whether an expert is over a limit beyond doubt by the inputs that were compared so far."""
    level = context.gate.spec.certificate.early_level
    found = {"disagreement": compared.distances.disagreement(level)}
    reference, metric = scores.get(task.name), context.gate.spec.experts[task.name].metric
    if reference is not None and metric in BUILTIN_METRICS:
        inputs = sorted(compared.inputs)
        said = context.workspace.engine.outputs(task, inputs, to_score=True)
        right = [task.examples[index].references for index in inputs]
        merged = score_outputs(metric, said, right)
        lost = measured_loss(reference.only(inputs), merged, metric, level)
        found |= {"loss": lost.loss.times(-1), "gain_kept": lost.gain_kept}
    return context.decisions.fails(found)


def until_decided(
    context: Context,
    name: str,
    order: Sequence[int],
    compared: C,
    look: Callable[[OwnAnswers], C],
) -> C:
    """``compared``, and what ``look`` finds on twice as many inputs of expert ``name`` in their
    ``order``, and again, while the disagreement is open."""
    spec, count = context.gate.spec, context.gate.spec.certificate.per_task
    most = spec.certificate.most
    while count < most and context.decisions.disagreement_is_open(
        name,
        compared.distances.disagreement(spec.level),
        compared.distances.upper(spec.level),
    ):
        more = tuple(order[count : min(2 * count, most)])
        if not more:
            break
        compared += look(context.references.of(name, more))
        count = min(2 * count, most)
    return compared
