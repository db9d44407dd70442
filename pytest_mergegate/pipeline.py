"""The pipeline, readable top to bottom: a gate goes down the stages until it is decided."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mergegate.automatic import AutomaticLimit, resolve
from pytest_mergegate.baseline.changes import baseline_findings, baseline_record
from pytest_mergegate.baseline.comparable import earlier_of
from pytest_mergegate.baseline.reading import Baseline, read_baseline
from pytest_mergegate.engine.cache import DEFAULT_LIMIT, Cache
from pytest_mergegate.errors import GateError, GateFileError, PoolError
from pytest_mergegate.findings import Finding, cache_finding, file_finding, internal_finding
from pytest_mergegate.gatefile import Gate, gate_from
from pytest_mergegate.judge import PER_METHOD, Judgement, judge, plan_depth
from pytest_mergegate.judged_values import straddles
from pytest_mergegate.past import Past
from pytest_mergegate.pool.fingerprints import cache_folder
from pytest_mergegate.predictions import predict
from pytest_mergegate.report import build
from pytest_mergegate.report.provenance import gate_settings, now, versions
from pytest_mergegate.report.types import CacheUse, Report
from pytest_mergegate.results import Results
from pytest_mergegate.spec import STAGES, Positions, Stage
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mergegate.diagnosis import Diagnosis
    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.engine.executors import Executor
    from pytest_mergegate.engine.task_vectors import TaskVectors
    from pytest_mergegate.engine.workspace import Workspace
    from pytest_mergegate.merging.method import Method
    from pytest_mergegate.planning.reported import Hint
    from pytest_mergegate.stages.hidden import Bounds
    from pytest_mergegate.stages.outcomes import Outcomes

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run a gate; what the gate file does not say."""

    stage: Stage | None = None
    """The deepest stage that may run; None for as deep as the budgets ask."""
    caps: Mapping[str, float] = field(default_factory=dict)
    """Limits that tighten every gate's budget."""
    device: str = "auto"
    executor: str = "local"
    """``local``, ``ray`` or ``ray:ADDRESS``."""
    cache: Path | None = field(default_factory=cache_folder)
    """Where results are kept between runs; None for nowhere."""
    cache_size: int = DEFAULT_LIMIT
    """Bytes beyond which the least recently used are evicted."""
    baseline: Baseline | None = None
    """A committed report to compare with."""
    registry: Path | None = None
    """The team's recorded merges, to predict losses from; there need be no such file."""
    progress: Progress | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the report keeps of them."""
        return {
            "stage": self.stage,
            "caps": dict(self.caps),
            "device": self.device,
            "executor": self.executor,
        }


def assess(
    source: object,
    *,
    stage: Stage | None = None,
    device: str = "auto",
    cache: Path | str | bool = True,
    root: Path | None = None,
    baseline: Path | str | None = None,
    registry: Path | str | None = None,
    **budget: float | str,
) -> Report:
    """Run a gate and return its report; no pytest needed.

    ``source`` is the path of a gate file or a mapping like one; ``stage`` the deepest stage that
    may run; ``cache`` the folder where results are kept, True for the user's own, False for none;
    ``baseline`` is a committed report to compare with; ``registry`` a file of recorded merges to
    predict losses from, which is not written to; ``budget`` overrides single limits
    (``max_mds=3.0``); relative paths start at ``root`` (default: the working directory). An expert
    that cannot be read gives a report with ``status: error``. Raises GateFileError for a gate that
    cannot be understood, GateError for a baseline that is none, ValueError for an unknown stage.
    """
    if stage is not None and stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}")
    root = root or Path.cwd()
    gate = gate_from(source, root=root, budget=budget)
    compared = read_baseline(root / baseline, root) if baseline is not None else None
    folder = (cache_folder() if cache else None) if isinstance(cache, bool) else Path(cache)
    options = Options(
        stage=stage,
        device=device,
        cache=folder,
        baseline=compared,
        registry=root / registry if registry is not None else None,
    )
    return run_gate(gate, options)


def run_gate(gate: Gate, options: Options) -> Report:
    """Take one gate down the stages; what cannot be computed makes the status ``error``."""
    run = _Run(gate, options)
    try:
        run.to_verdicts()
    except GateFileError as error:
        run.findings += [file_finding(problem) for problem in error.problems]
    except PoolError as error:
        run.findings.append(Finding.of(error))
    except GateError as error:
        run.findings.append(file_finding(error))
    except Exception as error:  # a bug of ours must fail this gate, and leave its report behind
        logging.getLogger(__name__).exception("internal error in gate %s", gate.name)
        run.findings.append(internal_finding(error))
        run.judgement = None
    return run.report()


def error_report(name: str, error: GateError, options: Options) -> Report:
    """The report of a gate that could not even be read."""
    problems = error.problems if isinstance(error, GateFileError) else (error,)
    return Report(
        status="error",
        gate=name,
        created=now(),
        versions=versions(),
        device=options.device,
        seconds={},
        settings=options.settings,
        findings=tuple(build.finding(file_finding(problem), None) for problem in problems),
    )


class _Run:
    """One gate on its way down: results, findings and seconds as they accumulate."""

    def __init__(self, gate: Gate, options: Options) -> None:
        self.gate = gate
        self.options = options
        self.findings: list[Finding] = []
        self.results: Results | None = None
        self.judgement: Judgement | None = None
        self.diagnoses: tuple[Diagnosis, ...] = ()
        self.hint: Hint | None = None
        self.seconds: dict[str, float] = {}
        self.device = options.device
        self.positions: Positions | None = None
        self.probes = gate.spec.probes.per_task
        self.cache = Cache(folder=options.cache, limit=options.cache_size)
        self.past = Past(options.registry, self.cache)
        self._nested = 0.0

    def to_verdicts(self) -> None:
        """Run the stages that the budgets need, and judge."""
        automatic = self._find_limits()
        gate = self.gate
        with self._timed("preflight"):
            preflight = run_preflight(gate)
        self.findings.extend(preflight.findings)
        if not preflight.ok or preflight.pool is None:
            return
        self.results = Results(pool=preflight.pool, automatic=automatic)
        depth = plan_depth(gate.spec, preflight.pool, self.options.stage)
        self._compute(depth)
        self._predict()
        self._look_back(depth)
        self.judgement = judge(gate, self.results, depth)
        if depth != "preflight":
            from pytest_mergegate.caveats import find_caveats
            from pytest_mergegate.diagnosis import diagnose

            self.findings.extend(find_caveats(gate, self.results, self.judgement))
            self.diagnoses = diagnose(gate, self.results, self.judgement)
            self.hint = self._plan()

    def _plan(self) -> Hint | None:
        """What to merge instead, from the states that are there."""
        from pytest_mergegate.planning.reported import hint

        assert self.results is not None
        assert self.judgement is not None
        with self._timed("hidden"):
            cures = [cure for diagnosis in self.diagnoses for cure in diagnosis.cures]
            drop = next((cure.drop for cure in cures if cure.drop), ())
            return hint(self.gate, self.results, self.judgement, drop)

    def _find_limits(self) -> dict[str, AutomaticLimit]:
        """Have the gate's limits as numbers: those that the registry sets, then the caps."""
        automatic: dict[str, AutomaticLimit] = {}
        if self.gate.spec.effective_budget.automatic:
            self.gate, automatic = resolve(self.gate, self.past.observations)
        budget = self.gate.spec.effective_budget.capped(self.options.caps)
        self.gate = self.gate.with_budget(budget)
        return automatic

    def _predict(self) -> None:
        """What the losses are that nobody measured."""
        assert self.results is not None
        if self.results.hidden is None:
            return
        predictions = predict(self.results, self.past.calibrations, self.past.shipped)
        self.results = _with(self.results, predictions=predictions)
        self.findings.extend(self.past.findings())

    def _look_back(self, depth: Stage) -> None:
        """What the baseline says of the gate, where there is something to compare with it."""
        assert self.results is not None
        if self.options.baseline is not None and depth != "preflight":
            earlier = earlier_of(
                self.options.baseline, self.gate.path, self.results, self._settings
            )
            self.results = _with(self.results, earlier=earlier)
            self.findings.extend(baseline_findings(earlier, self.gate, self.results))

    @property
    def _settings(self) -> dict[str, Any]:
        pool = self.results.pool if self.results is not None else None
        return gate_settings(self.gate, self.positions, self.probes, pool)

    def report(self) -> Report:
        """What was reached."""
        self._wait_for_hashes()
        failed = any(finding.severity == "error" for finding in self.findings)
        if self.judgement is not None:
            status: Any = self.judgement.status
        else:
            status = "error" if failed else "inconclusive"
        diagnoses = tuple(build.diagnosis(found) for found in self.diagnoses)
        findings = [*self.findings, *map(build.diagnosis_finding, diagnoses)]
        findings += [cache_finding(problem) for problem in self.cache.problems]
        report = Report(
            status=status,
            gate=str(self.gate.path) if self.gate.path else self.gate.name,
            created=now(),
            versions=versions(),
            device=self.device,
            seconds={name: round(seconds, 3) for name, seconds in self.seconds.items()},
            cache=CacheUse(hits=self.cache.hits, misses=self.cache.misses),
            settings={**self.options.settings, **self._settings},
            findings=tuple(build.finding(finding, self.gate) for finding in findings),
            diagnoses=diagnoses,
            **build.sections(self.results, self.judgement, self.diagnoses, self.gate, self.hint),
        )
        if (baseline := self.options.baseline) is None:
            return report
        earlier = self.results.earlier if self.results is not None else None
        record = baseline_record(baseline, self.gate.path, earlier, report)
        return report.model_copy(update={"baseline": record})

    def _wait_for_hashes(self) -> None:
        """What cannot be identified is not reported, let alone passed."""
        if self.results is None:
            return
        try:
            started = self.results.conflict is not None or self.results.hidden is not None
            self.results.pool.wait_for_hashes(base=started)
        except PoolError as error:
            self.findings.append(Finding.of(error))
            self.results = self.judgement = self.hint = None
            self.diagnoses = ()

    def _compute(self, depth: Stage) -> None:
        assert self.results is not None
        reach = STAGES.index(depth)
        if reach >= STAGES.index("hidden"):
            _ = self._planned  # a typo fails at once
        if reach >= STAGES.index("conflict"):
            self.results.pool.base.start_hashing()
            self._conflict()
        if reach >= STAGES.index("hidden"):
            workspace = self._workspace()
            if reach >= STAGES.index("merge") and not workspace.facts.has_head:
                workspace.engine.require_head()  # before anything is computed in vain
            compared = self._compares(depth) and workspace.facts.has_head
            self._hidden(workspace, self.gate.spec.certificate.per_task if compared else 0)
            self._forecasts_and_merges(workspace, depth)

    @cached_property
    def _vectors(self) -> TaskVectors:
        from pytest_mergegate.engine.task_vectors import TaskVectors

        assert self.results is not None
        return TaskVectors(self.results.pool)

    def _workspace(self) -> Workspace:
        from pytest_mergegate.engine.workspace import Workspace

        assert self.results is not None
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
        with self._timed("load"):
            self._tell("loading", 0.0)
            return load()

    @contextmanager
    def _executor(self) -> Iterator[Executor]:
        kind, _, address = self.options.executor.partition(":")
        if kind == "local":
            from pytest_mergegate.engine.executors import LocalExecutor

            yield LocalExecutor()
            return
        from pytest_mergegate.engine.ray_executor import RayExecutor

        with RayExecutor(self.gate, address or None) as executor:
            yield executor

    def _conflict(self) -> None:
        from pytest_mergegate.stages.kept_conflicts import find_conflicts

        assert self.results is not None
        with self._timed("conflict"):
            conflict = find_conflicts(
                self.results.pool,
                self.cache,
                self._dense,
                lambda f: self._tell("conflict", f),
                self.options.device,
            )
        self.results = _with(self.results, conflict=conflict)

    def _dense(self, expert: str, parameter: str) -> Any:
        delta = self._vectors.delta(expert, parameter)
        assert delta is not None
        return delta.numpy()

    def _compares(self, depth: Stage) -> bool:
        """Whether merges, or the sums that stand for them, are compared with the experts."""
        spec = self.gate.spec
        asked = PER_METHOD & set(spec.effective_budget.limits)
        return depth in {"merge", "eval"} or spec.merge.surrogate == "always" or bool(asked)

    def _hidden(self, workspace: Workspace, ahead: int) -> None:
        from pytest_mergegate.stages.hidden import run_hidden

        limit = self.gate.spec.effective_budget.limits.get("max_mds")
        with self._timed("hidden"), self._executor() as executor:
            while True:
                hidden = run_hidden(
                    workspace,
                    executor,
                    self.gate.spec,
                    self._methods,
                    lambda f: self._tell("hidden states", f),
                    ahead=ahead,
                )
                scores = [expert.mds for expert in hidden.experts.values()]
                decided = limit is None or not any(straddles(mds, limit) for mds in scores)
                if decided or not workspace.draw_more():
                    break
        self.probes = workspace.per_task
        self.results = _with(self.results, hidden=hidden)

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
        from pytest_mergegate.engine.workspace import own_code
        from pytest_mergegate.merging.method import Method

        assert self.results is not None
        names = self.results.pool.names

        def plan() -> list[Any]:
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

        assert self.results is not None
        hidden, spec = self.results.hidden, self.gate.spec
        assert hidden is not None
        evaluate, merging = depth == "eval", depth in {"merge", "eval"}
        outcomes = Outcomes(workspace, self.gate, hidden, evaluate=evaluate, timed=self._timed)
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

    def _surrogates(self, outcomes: Outcomes, methods: Sequence[Method]) -> None:
        for done, method in enumerate(methods):
            self._tell(f"forecast {method.label}", done / len(methods))
            with self._timed("hidden"):
                found = outcomes.surrogate(method)
            assert self.results is not None
            self.results = _with(self.results, surrogates=(*self.results.surrogates, found))

    def _merges(self, outcomes: Outcomes, methods: Sequence[Method], *, evaluate: bool) -> None:
        assert self.results is not None
        self._tell("experts' own answers", 0.0)
        if evaluate:
            with self._timed("eval"):
                self.results = _with(self.results, scores=outcomes.scores)
        for done, method in enumerate(methods):
            self._tell(f"merge {method.label}", done / len(methods))
            with self._timed("merge"):
                outcome = outcomes.of(method)
            self.results = _with(self.results, merges=(*self.results.merges, outcome.merge))
            if outcome.evaluation is not None:
                evaluations = (*self.results.evaluations, outcome.evaluation)
                self.results = _with(self.results, evaluations=evaluations)

    def _tell(self, what: str, fraction: float) -> None:
        if self.options.progress is not None:
            self.options.progress(what, fraction)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Add to the seconds of ``name``, less what was timed within."""
        start, outer, self._nested = time.perf_counter(), self._nested, 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._nested
            self._nested = outer + spent


def _with(results: Results | None, **changes: Any) -> Results:
    from dataclasses import replace

    assert results is not None
    return replace(results, **changes)
