"""How the base, with nothing merged, answers every expert's own inputs (THEORY 9)."""

from dataclasses import replace
from functools import partial

from pytest_mergegate.common.plain import result
from pytest_mergegate.stages.context import Context, Results
from pytest_mergegate.stages.merge_versus_experts import distances_from, is_decoded


@result
class BaseAnswers:
    """How the base, with nothing merged, answers one expert's own inputs."""

    inputs: int
    disagreement: float
    """Mean distance from the expert's answers; one that was cut counts as the nearest that it may
    become."""


def with_base(context: Context, results: Results) -> Results:
    """With what the base by itself does on every expert's inputs, where a budget is about merges:
    whether a merge that passes did anything (THEORY 9)."""
    if not context.decisions.compares_merges:
        return results
    context.tell("the base's own answers", 0.0)
    return replace(results, base=base_answers(context))


def base_answers(context: Context) -> dict[str, BaseAnswers]:
    """By expert; nothing must be loaded over the base."""
    workspace, spec = context.workspace, context.gate.spec
    inputs = {
        name: draw.order[: spec.certificate.per_task] for name, draw in workspace.draws.items()
    }
    keys = {
        name: workspace.key(
            "base's answers",
            expert=workspace.models[name],
            examples=context.pool.examples_fingerprint.get(name),
            read=spec.experts[name].how_read,
            inputs=inputs[name],
            probes=workspace.probing,
        )
        for name in context.pool.names
    }

    def compare(name: str) -> BaseAnswers:
        context.read_references()
        engine = workspace.engine
        # all that is not known at once: the more rows, the sooner each is read
        asked = [engine.tasks[n] for n, key in keys.items() if workspace.cache.peek(key) is None]
        told = [(task, inputs[task.name]) for task in asked if is_decoded(context, task)]
        engine.answer(told, to_score=True)
        found = distances_from(context, name, context.references.of(name, inputs[name]))
        return BaseAnswers(inputs=found.n, disagreement=found.mean_least)

    return {
        name: workspace.kept(BaseAnswers, key, partial(compare, name)) for name, key in keys.items()
    }
