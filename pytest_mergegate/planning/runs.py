"""Runs sums of task vectors on the inputs of some experts, each once."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pytest_mergegate.evaluation.scoring import score_outputs
from pytest_mergegate.planning.holding import Differences
from pytest_mergegate.spec import BUILTIN_METRICS
from pytest_mergegate.stages.comparison import References, answers_differ

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pytest_mergegate.engine.workspace import Workspace
    from pytest_mergegate.planning.holding import Holding
    from pytest_mergegate.stages.comparison import Reference

_MOST_SCORED = 256
"""Examples with targets on which a loss is forecast."""


class Runs:
    """θ_0 + Σ λ_j τ_j on the experts' own inputs, from the cache where it was run before."""

    def __init__(self, workspace: Workspace, holding: Holding) -> None:
        self._workspace = workspace
        self._references = References(workspace)
        self._known: dict[str, tuple[Reference, Differences]] = {}
        self._holding = holding
        self.done = 0
        """Models that were put together and run."""

    def of(
        self, scales: Mapping[str, float], order: Sequence[str]
    ) -> Generator[tuple[str, Differences], None, None]:
        """The experts in ``order``, one by one, under the model with these λ_j.

        The model is put together when the first of them is asked for that is not known.
        """
        with ExitStack() as loaded:
            for name in order:
                yield name, self._one(scales, name, loaded)

    def _one(self, scales: Mapping[str, float], name: str, loaded: ExitStack) -> Differences:
        reference, own = self._own(name)

        def run() -> list[int]:
            engine = self._workspace.engine
            label = f"group:{dict(scales)}"
            if engine.model.loaded != label:
                loaded.enter_context(engine.mixed(label, scales))
                self.done += 1
            return [int(differs) for differs in answers_differ(engine, name, reference)]

        models = self._workspace.models
        key = self._workspace.key(
            "group",
            of=name,
            scales=[(models[other], float(scale)) for other, scale in scales.items()],
            expert=models[name],
            examples=self._workspace.pool.examples_fingerprint.get(name),
            read=self._workspace.spec.experts[name].how_read,
            inputs=list(reference.inputs),
            probes=self._workspace.spec.probes.model_dump(mode="json"),
        )
        found = self._workspace.cache.json(key, run)
        return Differences(
            differs=tuple(map(bool, found)),
            cut=own.cut,
            scores=own.scores,
            labelled=own.labelled,
        )

    def _own(self, name: str) -> tuple[Reference, Differences]:
        """The expert by itself: its answers, and their scores as far as they follow from those."""
        if name not in self._known:
            pool, examples = self._workspace.pool, self._workspace.pool.examples[name]
            labelled = len(examples) if pool.labelled(name) else 0
            count = self._holding.inputs(labelled, _MOST_SCORED)
            order = self._workspace.draws[name].order[:count]
            reference = self._references.of(name, order)
            own = Differences(
                differs=(False,) * len(order),
                cut=reference.cut,
                scores=self._scores(name, reference) if labelled else None,
                labelled=labelled,
            )
            self._known[name] = reference, own
        return self._known[name]

    def _scores(self, name: str, reference: Reference) -> NDArray[np.float64] | None:
        metric = self._workspace.spec.experts[name].metric
        if metric not in BUILTIN_METRICS:
            return None
        examples = self._workspace.pool.examples[name]
        targets = [examples[k].target or "" for k in reference.inputs]
        return score_outputs(metric, reference.outputs, targets)
