"""The pipeline, readable top to bottom: a gate goes down the stages until it is decided."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mergegate.errors import GateError, GateFileError, PoolError
from pytest_mergegate.findings import Finding, file_finding, internal_finding
from pytest_mergegate.gatefile import Gate, gate_from
from pytest_mergegate.judge import Judgement, Results, judge, plan_depth
from pytest_mergegate.report import build
from pytest_mergegate.report.provenance import gate_settings, now, versions
from pytest_mergegate.report.types import Report
from pytest_mergegate.spec import STAGES, Positions, Stage
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.diagnosis import Diagnosis
    from pytest_mergegate.engine.engine import Engine
    from pytest_mergegate.engine.task_vectors import TaskVectors
    from pytest_mergegate.merging.methods import Method

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
    progress: Progress | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the report keeps of them."""
        return {"stage": self.stage, "caps": dict(self.caps), "device": self.device}


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """A report, and what people are told beside it."""

    report: Report
    diagnoses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By expert over budget: likely cause, neighbours and ways out, one statement a line."""

    def to_json(self) -> str:
        """As text, to hand it from one xdist worker to another."""
        return json.dumps({"report": self.report.to_json(None), "diagnoses": dict(self.diagnoses)})

    @classmethod
    def from_json(cls, text: str) -> Assessment:
        """Read back what ``to_json`` wrote."""
        data = json.loads(text)
        diagnoses = {name: tuple(lines) for name, lines in data["diagnoses"].items()}
        return cls(report=Report.from_json(data["report"]), diagnoses=diagnoses)


def assess(
    source: object,
    *,
    stage: Stage | None = None,
    device: str = "auto",
    root: Path | None = None,
    **budget: float,
) -> Report:
    """Run a gate and return its report; no pytest needed.

    ``source`` is the path of a gate file or a mapping like one; ``stage`` the deepest stage that
    may run; ``budget`` overrides single limits (``max_mds=3.0``); relative paths start at
    ``root`` (default: the working directory). An expert that cannot be read gives a report with
    ``status: error``. Raises GateFileError for a gate that cannot be understood, ValueError for
    an unknown stage.
    """
    if stage is not None and stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}")
    gate = gate_from(source, root=root or Path.cwd(), budget=budget)
    return run_gate(gate, Options(stage=stage, device=device)).report


def run_gate(gate: Gate, options: Options) -> Assessment:
    """Take one gate down the stages; what cannot be computed makes the status ``error``."""
    gate = gate.with_budget(gate.spec.effective_budget.capped(dict(options.caps)))
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
    return run.assessment()


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
        findings=tuple(build.finding(file_finding(problem)) for problem in problems),
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
        self.seconds: dict[str, float] = {}
        self.device = options.device
        self.positions: Positions | None = None

    def to_verdicts(self) -> None:
        """Run the stages that the budgets need, and judge."""
        gate = self.gate
        with self._timed("preflight"):
            preflight = run_preflight(gate)
        self.findings.extend(preflight.findings)
        if not preflight.ok or preflight.pool is None:
            return
        self.results = Results(pool=preflight.pool)
        depth = plan_depth(gate.spec, preflight.pool, self.options.stage)
        self._compute(depth)
        self.judgement = judge(gate, self.results, depth)
        if depth != "preflight":
            from pytest_mergegate.caveats import find_caveats
            from pytest_mergegate.diagnosis import diagnose

            self.findings.extend(find_caveats(gate, self.results, self.judgement))
            self.diagnoses = diagnose(gate, self.results, self.judgement)
            self.findings.extend(diagnosis.finding() for diagnosis in self.diagnoses)

    def assessment(self) -> Assessment:
        """The report of what was reached."""
        self._wait_for_hashes()
        failed = any(finding.severity == "error" for finding in self.findings)
        if self.judgement is not None:
            status: Any = self.judgement.status
        else:
            status = "error" if failed else "inconclusive"
        report = Report(
            status=status,
            gate=str(self.gate.path) if self.gate.path else self.gate.name,
            created=now(),
            versions=versions(),
            device=self.device,
            seconds={name: round(seconds, 3) for name, seconds in self.seconds.items()},
            settings={**self.options.settings, **gate_settings(self.gate, self.positions)},
            findings=tuple(build.finding(finding) for finding in self.findings),
            **build.sections(self.results, self.judgement, self.diagnoses, self.gate.spec),
        )
        diagnoses = {diagnosis.expert: diagnosis.lines for diagnosis in self.diagnoses}
        return Assessment(report=report, diagnoses=diagnoses)

    def _wait_for_hashes(self) -> None:
        """What cannot be identified is not reported, let alone passed."""
        if self.results is None:
            return
        try:
            started = self.results.conflict is not None or self.results.hidden is not None
            self.results.pool.wait_for_hashes(base=started)
        except PoolError as error:
            self.findings.append(Finding.of(error))
            self.results = self.judgement = None
            self.diagnoses = ()

    def _compute(self, depth: Stage) -> None:
        assert self.results is not None
        reach = STAGES.index(depth)
        if reach >= STAGES.index("hidden"):
            self._methods(dict.fromkeys(self.results.pool.names, 1.0))  # a typo fails at once
        if reach >= STAGES.index("conflict"):
            self.results.pool.base.start_hashing()
            self._conflict()
        if reach >= STAGES.index("hidden"):
            engine = self._engine()
            if reach >= STAGES.index("merge"):
                engine.require_head()  # before anything is computed in vain
            self._hidden(engine)
            if reach >= STAGES.index("merge"):
                self._merges(engine, evaluate=depth == "eval")

    @cached_property
    def _vectors(self) -> TaskVectors:
        from pytest_mergegate.engine.task_vectors import TaskVectors

        assert self.results is not None
        return TaskVectors(self.results.pool)

    def _engine(self) -> Engine:
        with self._timed("load"):
            self._tell("loading", 0.0)
            from pytest_mergegate.engine.engine import Engine

            assert self.results is not None
            engine = Engine(self.results.pool, self.gate.spec, self.options.device, self._vectors)
            self.device = str(engine.model.device)
            self.positions = engine.positions
            return engine

    def _conflict(self) -> None:
        from pytest_mergegate.stages.conflict import run_conflict

        assert self.results is not None
        with self._timed("conflict"):
            conflict = run_conflict(
                self.results.pool,
                self._dense,
                lambda f: self._tell("conflict", f),
                self.options.device,
            )
        self.results = _with(self.results, conflict=conflict)

    def _dense(self, expert: str, parameter: str) -> Any:
        delta = self._vectors.delta(expert, parameter)
        assert delta is not None
        return delta.numpy()

    def _hidden(self, engine: Engine) -> None:
        from pytest_mergegate.stages.hidden import run_hidden

        with self._timed("hidden"):
            hidden = run_hidden(
                engine, self.gate.spec, self._methods, lambda f: self._tell("hidden states", f)
            )
        self.results = _with(self.results, hidden=hidden)

    def _methods(self, optimal: Mapping[str, float]) -> tuple[Method, ...]:
        from pytest_mergegate.merging.methods import plan_methods, with_shares

        assert self.results is not None
        methods = plan_methods(self.gate, self.results.pool.names)
        if self.gate.spec.merge.weights != "optimal":
            return methods
        return tuple(with_shares(method, optimal) for method in methods)

    def _merges(self, engine: Engine, *, evaluate: bool) -> None:
        from pytest_mergegate.merging.merge import merge
        from pytest_mergegate.stages.evaluate import read_reference_scores, run_evaluate
        from pytest_mergegate.stages.merge import read_references, run_merge

        assert self.results is not None
        hidden = self.results.hidden
        assert hidden is not None
        methods = self._methods(hidden.bounds.weights)
        with self._timed("merge"):
            self._tell("experts' own answers", 0.0)
            references = read_references(engine)
        if evaluate:
            with self._timed("eval"):
                scores = read_reference_scores(engine, self.gate)
            self.results = _with(self.results, scores=scores)
        for done, method in enumerate(methods):
            self._tell(f"merge {method.label}", done / len(methods))
            with self._timed("merge"):
                merged = merge(method, engine)
            with engine.model.swapped(f"merge:{method.label}", merged.weights):
                with self._timed("merge"):
                    result = run_merge(engine, method, merged, hidden, references, self.gate.spec)
                self.results = _with(self.results, merges=(*self.results.merges, result))
                if evaluate:
                    with self._timed("eval"):
                        scored = run_evaluate(engine, method.label, scores, self.gate)
                    evaluations = (*self.results.evaluations, scored)
                    self.results = _with(self.results, evaluations=evaluations)

    def _tell(self, what: str, fraction: float) -> None:
        if self.options.progress is not None:
            self.options.progress(what, fraction)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _with(results: Results | None, **changes: Any) -> Results:
    from dataclasses import replace

    assert results is not None
    return replace(results, **changes)
