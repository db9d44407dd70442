"""What the stages compute with, and what they have found."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_mergegate.engine.models.readings import TokenCounts
from pytest_mergegate.engine.running.executors import Executor, LocalExecutor
from pytest_mergegate.engine.running.references import References
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.evaluation.comparing import comparer, require_rouge_score
from pytest_mergegate.gate.options import STAGES, Stage
from pytest_mergegate.gate.sections import ROUGE
from pytest_mergegate.gate.spec import FEWEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_mergegate.common.findings import Finding
    from pytest_mergegate.common.values import Value
    from pytest_mergegate.engine.running.cache import Cache
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.finished import FinishedEngine
    from pytest_mergegate.engine.weights.task_vectors import TaskVectors
    from pytest_mergegate.evaluation.scoring import Scored
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.options import Options
    from pytest_mergegate.gate.sections import Positions
    from pytest_mergegate.merging.merge import Merged
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.stages.base_answers import BaseAnswers
    from pytest_mergegate.stages.conflict import ConflictResult
    from pytest_mergegate.stages.evaluate import EvaluateResult
    from pytest_mergegate.stages.forecasts import Surrogate
    from pytest_mergegate.stages.hidden import HiddenResult
    from pytest_mergegate.stages.measured import ReferenceScores
    from pytest_mergegate.stages.merge import MergeResult

T = TypeVar("T")


class Clock:
    """Seconds and tokens by name; what is timed within something else does not count for that."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, TokenCounts] = {}
        """Of the model that runs in this process."""
        self.counts = TokenCounts()
        """Of the model, once there is one."""
        self._nested = 0.0, TokenCounts()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add to what ``name`` has taken, less what was timed within."""
        start, before, outer = time.perf_counter(), replace(self.counts), self._nested
        self._nested = 0.0, TokenCounts()
        self.seconds.setdefault(name, 0.0)  # in the order in which they began
        self.tokens.setdefault(name, TokenCounts())
        try:
            yield
        finally:
            spent, run = time.perf_counter() - start, self.counts - before
            seconds, tokens = self._nested
            self.seconds[name] += spent - seconds
            self.tokens[name] += run - tokens
            self._nested = outer[0] + spent, outer[1] + run


@dataclass(frozen=True, kw_only=True)
class BudgetQuestions:
    """What the stages must know of the budgets."""

    deepest: Stage
    """At which every budget is decided, or the deepest that may run."""
    stages: frozenset[Stage]
    """Those that find what a budget asks for, or that these cannot do without."""
    compares_merges: bool
    """Whether a budget is about what a merge answers."""
    hangs_on: Mapping[str, Any]
    """All that it hangs on whether something is open: a part of keys."""
    mds_is_open: Callable[[Value], bool]
    """Whether more probes might change on which side of its limit an MDS is."""
    may_end_early: bool
    """Whether an expert that fails beyond doubt may be asked no further inputs."""
    fails: Callable[[Mapping[str, Value]], bool]
    """Whether a quantity of a merge, by the name that budgets have for it, is over its limit by the
    whole of its interval."""
    disagreement_is_open: Callable[[str, Value, float], bool]
    """Whether more inputs might change on which side of a limit an expert is whose interval of
    the disagreement, and bound on it, these are."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the stages have found so far; None for a stage that did not run."""

    pool: Pool
    findings: tuple[Finding, ...] = ()
    """What preflight has to say of a pool that is sound."""
    methods: tuple[Method, ...] = ()
    """The gate's methods of merging; their weights are known once the states are."""
    device: str | None = None
    """Where models run; None where none did."""
    computing: Mapping[str, str] = field(default_factory=dict)
    """In what they computed, by the precision of their weights."""
    positions: Positions | None = None
    """Where states were read."""
    probes: int | None = None
    """How many of each task were drawn in the end."""
    answer_limit: int | None = None
    """How many tokens of an answer were decoded at most; None where none was."""
    conflict: ConflictResult | None = None
    hidden: HiddenResult | None = None
    surrogates: tuple[Surrogate, ...] = ()
    merges: tuple[MergeResult, ...] = ()
    evaluations: tuple[EvaluateResult, ...] = ()
    scores: Mapping[str, ReferenceScores] = field(default_factory=dict)
    """Of the experts by themselves; empty where the last stage did not run."""
    base: Mapping[str, BaseAnswers] | None = None
    """The base by itself on every expert's inputs; None where no budget is about merges."""
    scored: Mapping[str, Mapping[str, Scored]] = field(default_factory=dict)
    """By method and expert, of merges that were scored while they were in place."""

    def merge(self, method: str | None) -> MergeResult | None:
        """The merge by ``method``; None where it was not made."""
        return next((m for m in self.merges if m.method.label == method), None)

    def probes_of(self, expert: str) -> int:
        """On how many of its inputs states were compared."""
        return len(self.hidden.states.own(expert)) if self.hidden is not None else 0

    def surrogate(self, method: str | None) -> Surrogate | None:
        """The forecast of ``method`` by a factored sum; None where it was not run."""
        return next((s for s in self.surrogates if s.method == method), None)


@dataclass(eq=False)
class Context:
    """What the stages compute with; no model is loaded before one is needed.

    ``decide`` reads the budgets, once the pool is known to be sound. Budgets are read nowhere else:
    those of ``gate`` may still be ``auto@RATE``.
    """

    gate: Gate
    pool: Pool
    options: Options
    cache: Cache
    clock: Clock
    decide: Callable[[], BudgetQuestions]
    passes: Callable[[Results], bool] | None = None
    """Whether a gate of which any method may pass does so by what was found; None for a gate of
    which all that can be found is asked."""
    _open: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def decisions(self) -> BudgetQuestions:
        """What the budgets ask for. Raises GateError for a limit that cannot be found."""
        return self.decide()

    def reaches(self, stage: Stage) -> bool:
        """Whether ``stage`` is run."""
        return STAGES.index(stage) <= STAGES.index(self.decisions.deepest)

    @cached_property
    def vectors(self) -> TaskVectors:
        """The experts' task vectors."""
        from pytest_mergegate.engine.weights.task_vectors import TaskVectors

        return TaskVectors(self.pool)

    @cached_property
    def workspace(self) -> Workspace:
        """Models, and what is known of them without loading one."""

        def loading(load: Callable[[], Engine]) -> Engine:
            with self.clock.timed("load"):
                self.tell("loading", 0.0)
                engine = load()
            self.tell("running the models", 0.0)
            self.clock.counts = engine.model.counts
            return engine

        return Workspace(
            self.pool,
            device=self.options.device,
            cache=self.cache,
            vectors=lambda: self.vectors,
            loading=loading,
            comparer=partial(comparer, self.gate),
        )

    def check_comparisons(self) -> None:
        """Raise GateError for a package or a function that is missing to compare answers or to
        score them, before anything is computed in vain."""
        for name, expert in self.gate.spec.experts.items():
            self.workspace.comparer(name)
            if expert.metric == ROUGE and self.pool.labelled(name):
                require_rouge_score()

    @cached_property
    def executor(self) -> Executor:
        """Where models run; its workers keep the base until ``close``."""
        kind, _, address = self.options.executor.partition(":")
        if kind == "local":
            return LocalExecutor()
        from pytest_mergegate.engine.running.ray_executor import RayExecutor

        return self._open.enter_context(RayExecutor(self.gate, address or None))

    def close(self) -> None:
        """Let go of the executor's workers; another one is had by asking for it."""
        self._open.close()
        vars(self).pop("executor", None)

    @cached_property
    def references(self) -> References:
        """What every expert does on its own inputs."""
        return References(self.workspace)

    def read_references(self) -> None:
        """Have the experts' own answers on the inputs of the certificate at hand, before anything
        else is put in place."""
        self.references.read(self.gate.spec.certificate.per_task)

    @cached_property
    def finished(self) -> FinishedEngine:
        """The finished merge that is gated. Raises PoolError where it does not load."""
        from pytest_mergegate.engine.running.finished import FinishedEngine

        with self.clock.timed("load"):
            self.tell("loading the finished merge", 0.0)
            assert self.pool.merged is not None
            computes = self.workspace.computing[self.pool.merged.dtype]
            engine = FinishedEngine(self.pool, self.options.device, computes=computes)
        self.pool.merged.check_unchanged()
        return engine

    @contextmanager
    def answering(self, method: Method) -> Iterator[Engine]:
        """The engine in which the merge by ``method``, made or finished, is in place. Raises
        GateError."""
        if self.pool.merged is not None:
            with self.finished.in_place():
                yield self.finished
        else:
            with self.merged(method):
                yield self.workspace.engine

    @contextmanager
    def merged(self, method: Method) -> Iterator[Merged]:
        """Have the merge by ``method`` in place. Raises GateError."""
        from pytest_mergegate.merging.merge import merge

        self.read_references()
        engine = self.workspace.engine
        merged = merge(method, engine)
        with engine.model.swapped(f"merge:{method.label}", merged.weights):
            yield merged

    def early_looks(self, name: str) -> tuple[int, ...]:
        """On how many of its inputs an expert may be found to fail, so that no more are read.

        Not where its loss is measured on inputs of its own: what a registry learns from a merge
        must not depend on how the merge did.
        """
        if not self.decisions.may_end_early:
            return ()
        inputs, certificate = len(self.workspace.draws[name].order), self.gate.spec.certificate
        measured = self.reaches("eval") and self.pool.labelled(name)
        teaches = measured and inputs - certificate.per_task >= FEWEST
        return () if teaches else certificate.early(inputs)

    def key(self, kind: str, **more: Any) -> dict[str, Any]:
        """All that a comparison with the experts depends on, beside ``more``."""
        spec, workspace = self.gate.spec, self.workspace
        ends_early = any(self.early_looks(name) for name in self.pool.names)
        return workspace.key(
            kind,
            experts=list(workspace.models.items()),
            examples=dict(self.pool.examples_fingerprint),
            read={name: expert.how_read for name, expert in spec.experts.items()},
            probes=workspace.probing,
            drawn=workspace.per_task,
            certificate=spec.certificate.drawn,
            open=self.decisions.hangs_on if ends_early or spec.certificate.looks > 1 else None,
            levels=[spec.level, spec.loss_level],
            **more,
        )

    def tell(self, what: str, fraction: float) -> None:
        """Say what is being done, and how much of it is done."""
        if self.options.progress is not None:
            self.options.progress(what, fraction)
