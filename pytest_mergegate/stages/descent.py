"""A pool on its way down the stages."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.imports import nothing_collected
from pytest_mergegate.gate.spec import STAGES
from pytest_mergegate.verdict.decisions import Decisions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_mergegate.common.clock import Clock
    from pytest_mergegate.engine.running.cache import Cache
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.executors import Executor
    from pytest_mergegate.engine.running.trials import Trials
    from pytest_mergegate.engine.running.workspace import Workspace
    from pytest_mergegate.engine.weights.task_vectors import TaskVectors
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.options import Options
    from pytest_mergegate.gate.spec import Positions, Stage
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.stages.hidden import Bounds
    from pytest_mergegate.stages.outcomes import Outcomes
    from pytest_mergegate.stages.results import Results


class Descent:
    """Results as they accumulate, and what they were computed with."""

    def __init__(
        self, gate: Gate, options: Options, results: Results, cache: Cache, clock: Clock
    ) -> None:
        self.gate = gate
        self.options = options
        self.results = results
        self.cache = cache
        self.clock = clock
        self._decisions = Decisions(gate.spec, results.pool)
        self.device = options.device
        self.positions: Positions | None = None
        """Where states were read; None where none were."""
        self.probes = gate.spec.probes.per_task
        """How many of each task were drawn in the end."""

    def compute(self, depth: Stage) -> None:
        """Run the stages down to ``depth``; what they find accumulates in ``results``."""
        reach = STAGES.index(depth)
        if reach >= STAGES.index("hidden"):
            _ = self._planned  # a typo fails at once
        if reach >= STAGES.index("conflict"):
            self.results.pool.base.start_hashing()
            self.find_conflicts()
        if reach >= STAGES.index("hidden"):
            workspace = self.workspace
            if reach >= STAGES.index("merge") and not workspace.facts.has_head:
                workspace.engine.require_head()  # before anything is computed in vain
            compared = self._compares(depth) and workspace.facts.has_head
            ahead = self.gate.spec.certificate.per_task if compared else 0
            self.find_states(workspace, ahead, self._methods)
            self._forecasts_and_merges(workspace, depth)

    @cached_property
    def _vectors(self) -> TaskVectors:
        from pytest_mergegate.engine.weights.task_vectors import TaskVectors

        return TaskVectors(self.results.pool)

    @cached_property
    def workspace(self) -> Workspace:
        """What models are run with; none is loaded before it is needed."""
        from pytest_mergegate.engine.running.workspace import Workspace

        workspace = Workspace(
            self.results.pool,
            self.gate.spec,
            device=self.options.device,
            cache=self.cache,
            vectors=lambda: self._vectors,
            loading=self._loading,
        )
        self.device = workspace.device
        self.positions = workspace.facts.positions
        return workspace

    def _loading(self, load: Callable[[], Engine]) -> Engine:
        with self.clock.timed("load"):
            self._tell("loading", 0.0)
            return load()

    @contextmanager
    def _executor(self) -> Iterator[Executor]:
        kind, _, address = self.options.executor.partition(":")
        if kind == "local":
            from pytest_mergegate.engine.running.executors import LocalExecutor

            yield LocalExecutor()
            return
        from pytest_mergegate.engine.running.ray_executor import RayExecutor

        with RayExecutor(self.gate, address or None) as executor:
            yield executor

    @property
    def trials(self) -> Trials | None:
        """Other weightings of the pool, tried out; None where that cannot be done."""
        hidden = self.results.hidden
        if hidden is None:
            return None
        from pytest_mergegate.engine.running.trials import trials_of

        return trials_of(self.workspace, hidden.states)

    def find_conflicts(self) -> None:
        """The second stage."""
        from pytest_mergegate.stages.kept_conflicts import find_conflicts

        with self.clock.timed("conflict"):
            conflict = find_conflicts(
                self.results.pool,
                self.cache,
                self._dense,
                lambda f: self._tell("conflict", f),
                self.options.device,
            )
        self.results = replace(self.results, conflict=conflict)

    def _dense(self, expert: str, parameter: str) -> Any:
        delta = self._vectors.delta(expert, parameter)
        assert delta is not None
        return delta.numpy()

    def _compares(self, depth: Stage) -> bool:
        """Whether merges, or the sums that stand for them, are compared with the experts."""
        spec = self.gate.spec
        asked = self._decisions.compares_merges
        return depth in {"merge", "eval"} or spec.merge.surrogate == "always" or asked

    def find_states(
        self,
        workspace: Workspace,
        ahead: int,
        methods: Callable[[Bounds], tuple[Method, ...]],
    ) -> None:
        """The third stage; as long as it is open on which side of its limit an MDS is, with more
        probes. ``ahead`` inputs of each expert are read while it is in place, for the next stage;
        ``methods`` are those to forecast."""
        from pytest_mergegate.stages.hidden import run_hidden

        with self.clock.timed("hidden"), self._executor() as executor:
            while True:
                hidden = run_hidden(
                    workspace,
                    executor,
                    self.gate.spec,
                    methods,
                    lambda f: self._tell("hidden states", f),
                    ahead=ahead,
                )
                scores = [expert.mds for expert in hidden.experts.values()]
                decided = not any(map(self._decisions.mds_is_open, scores))
                if decided or not workspace.draw_more():
                    break
        self.probes = workspace.per_task
        self.results = replace(self.results, hidden=hidden)

    def _methods(self, bounds: Bounds) -> tuple[Method, ...]:
        from pytest_mergegate.merging.method import with_shares

        wanted = self.gate.spec.merge.weights
        if wanted == "uniform" or not isinstance(wanted, str):
            return self._planned
        shares = bounds.weights if wanted == "optimal" else bounds.minimax_weights
        return tuple(with_shares(method, shares) for method in self._planned)

    @cached_property
    def _planned(self) -> tuple[Method, ...]:
        """The gate's methods, held against mergekit, which is imported once for all runs."""
        from pytest_mergegate.engine.running.workspace import own_code
        from pytest_mergegate.merging.method import Method

        names = self.results.pool.names

        def plan() -> list[Any]:
            with nothing_collected():
                from pytest_mergegate.merging.methods import plan_methods

            return [method.plain for method in plan_methods(self.gate, names)]

        key = {
            "kind": "methods",
            "code": own_code(),
            "mergekit's": version("mergekit"),
            "merge": self.gate.spec.merge.model_dump(mode="json"),
            "mergekit": self.gate.mergekit and dict(self.gate.mergekit.config),
            "names": names,
        }
        return tuple(Method(**plain) for plain in self.cache.json(key, plan))

    def _forecasts_and_merges(self, workspace: Workspace, depth: Stage) -> None:
        from pytest_mergegate.merging.method import has_surrogate, is_sum
        from pytest_mergegate.stages.outcomes import Outcomes

        hidden, spec = self.results.hidden, self.gate.spec
        assert hidden is not None
        evaluate, merging = depth == "eval", depth in {"merge", "eval"}
        outcomes = Outcomes(
            workspace,
            self.gate,
            hidden,
            evaluate=evaluate,
            timed=self.clock.timed,
            scorer=self.options.scorer,
        )
        methods = self._methods(hidden.bounds)
        always = spec.merge.surrogate == "always"
        if not merging and not (self._compares(depth) and workspace.facts.has_head):
            methods = ()
        # a sum of task vectors is its own forecast: where it is merged, it is run but once
        before = [m for m in methods if not merging or (always and not is_sum(m))]
        self._surrogates(outcomes, [m for m in before if has_surrogate(m)])
        if merging:
            self._merges(outcomes, methods, evaluate=evaluate)
            self._surrogates(outcomes, [m for m in methods if is_sum(m)])
        if methods and self._decisions.compares_merges:
            self._tell("the base's own answers", 0.0)
            with self.clock.timed("merge" if merging else "hidden"):
                self.results = replace(self.results, base=outcomes.base)

    def _surrogates(self, outcomes: Outcomes, methods: Sequence[Method]) -> None:
        for done, method in enumerate(methods):
            self._tell(f"forecast {method.label}", done / len(methods))
            with self.clock.timed("hidden"):
                found = outcomes.surrogate(method)
                self.results = replace(self.results, surrogates=(*self.results.surrogates, found))

    def _merges(self, outcomes: Outcomes, methods: Sequence[Method], *, evaluate: bool) -> None:
        self._tell("experts' own answers", 0.0)
        if evaluate:
            with self.clock.timed("eval"):
                self.results = replace(self.results, scores=outcomes.scores)
        for done, method in enumerate(methods):
            self._tell(f"merge {method.label}", done / len(methods))
            with self.clock.timed("merge"):
                outcome = outcomes.of(method)
            self.results = replace(self.results, merges=(*self.results.merges, outcome.merge))
            if outcome.evaluation is not None:
                evaluations = (*self.results.evaluations, outcome.evaluation)
                self.results = replace(self.results, evaluations=evaluations)

    def _tell(self, what: str, fraction: float) -> None:
        if self.options.progress is not None:
            self.options.progress(what, fraction)
