"""Runs sums of task vectors, and merges, on the inputs of some experts, each once."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from pytest_mergegate.engine.running.distances import Distances
from pytest_mergegate.engine.running.references import OwnAnswers
from pytest_mergegate.engine.running.workspace import own_processor
from pytest_mergegate.evaluation.scoring import score_outputs
from pytest_mergegate.gate.sections import BUILTIN_METRICS
from pytest_mergegate.merging.method import Method
from pytest_mergegate.planning.limits import ComparedAnswers, MergeLimits
from pytest_mergegate.stages.context import Context
from pytest_mergegate.stages.merge_versus_experts import distances_from

Differing = Generator[tuple[str, ComparedAnswers], None, None]
_MOST_SCORED = 256
"""Examples with targets on which a loss is forecast."""


class Runs:
    """θ_0 + Σ λ_j τ_j on the experts' own inputs, from the cache where it was run before."""

    def __init__(self, context: Context, limits: MergeLimits) -> None:
        self._context = context
        self._workspace = context.workspace
        self._references = context.references
        self._limits = limits
        self._known: dict[str, list[tuple[OwnAnswers, ComparedAnswers]]] = {}
        self.done = 0
        """Models that were put together and run."""

    def of(
        self, scales: Mapping[str, float], order: Sequence[str], *, hasty: bool = False
    ) -> Differing:
        """The experts in ``order``, one by one, under the model with these λ_j.

        The model is put together when the first of them is asked for that is not known; ``hasty``
        looks at no more inputs of an expert once it is over a limit whatever the rest would be.
        """
        models, label = self._workspace.models, f"group:{dict(scales)}"
        described = {"scales": [(models[name], float(scale)) for name, scale in scales.items()]}

        def load() -> AbstractContextManager[None]:
            return self._workspace.engine.mixed(label, scales)

        yield from self._each(described, label, load, order, hasty=hasty)

    def merged(self, method: Method, order: Sequence[str]) -> Differing:
        """The same under the real merge, made in memory with mergekit's arithmetic.

        Raises GateError where mergekit refuses.
        """
        models, label = self._workspace.models, f"group:{method.label}:{dict(method.weights)}"
        described = {
            "method": method.plain,
            "experts": [(name, models[name]) for name in method.weights],
            "processor": own_processor(),
        }

        def load() -> AbstractContextManager[None]:
            from pytest_mergegate.merging.in_place import lazy_weights

            engine = self._workspace.engine
            parameters = engine.vectors.parameters(*method.weights)
            return engine.model.swapped(label, lazy_weights(method, engine, parameters))

        yield from self._each(described, label, load, order)

    def _each(
        self,
        described: Mapping[str, Any],
        label: str,
        load: Callable[[], AbstractContextManager[None]],
        order: Sequence[str],
        *,
        hasty: bool = False,
    ) -> Differing:
        workspace = self._workspace
        with ExitStack() as loaded:

            def run(name: str, reference: OwnAnswers) -> Distances:
                if workspace.engine.model.loaded != label:
                    loaded.enter_context(load())
                    self.done += 1
                return distances_from(self._context, name, reference)

            for name in order:
                found: ComparedAnswers | None = None
                for reference, own in self._own(name):
                    if hasty and found is not None and self._limits.is_lost(name, found, own):
                        break
                    key = workspace.key(
                        "group",
                        of=name,
                        expert=workspace.models[name],
                        examples=workspace.pool.examples_fingerprint.get(name),
                        read=workspace.spec.experts[name].how_read,
                        inputs=list(reference.inputs),
                        probes=workspace.probing,
                        **described,
                    )
                    distances = workspace.kept(Distances, key, partial(run, name, reference))
                    piece = replace(own, distances=distances)
                    found = piece if found is None else found + piece
                assert found is not None
                yield name, found

    def _own(self, name: str) -> list[tuple[OwnAnswers, ComparedAnswers]]:
        """The expert by itself, on the certificate's inputs, then on those that only a loss asks
        for: its answers, and their scores as far as they follow from those."""
        if name in self._known:
            return self._known[name]
        workspace = self._workspace
        pool, metric = workspace.pool, workspace.spec.experts[name].metric
        first, order = workspace.spec.certificate.per_task, workspace.draws[name].order
        labelled = len(pool.examples[name]) if pool.labelled(name) else 0
        count = self._limits.inputs(labelled, _MOST_SCORED)
        found = []
        for inputs in filter(None, (order[:first], order[first:count])):
            reference, scores = self._references.of(name, inputs), None
            if labelled and metric in BUILTIN_METRICS:
                right = [pool.examples[name][k].references for k in reference.inputs]
                scores = score_outputs(metric, reference.outputs, right)
            none = (0.0,) * len(inputs)
            comparison = workspace.spec.experts[name].comparison
            unmoved = Distances(comparison=comparison, seen=none, least=none, most=none)
            own = ComparedAnswers(distances=unmoved, scores=scores, labelled=labelled)
            found.append((reference, own))
        self._known[name] = found
        return found
