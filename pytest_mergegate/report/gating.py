"""The pipeline, readable top to bottom: a gate is taken through the stages until it is decided."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from pytest_mergegate.common.errors import GateError, GateFileError, PoolError, no_torch
from pytest_mergegate.common.files.cache_folder import cache_folder, check_cache
from pytest_mergegate.common.findings import Finding, cache_finding, file_finding, internal_finding
from pytest_mergegate.common.statuses import Status
from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.engine.running.trials import Trials, trials_of
from pytest_mergegate.gate.gatefile import Gate, gate_from, refuse_code
from pytest_mergegate.gate.options import STAGES, Options, Stage
from pytest_mergegate.history.past import Past
from pytest_mergegate.planning.forecasts import PlanRecord
from pytest_mergegate.planning.from_states import hint
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.report import build
from pytest_mergegate.report.baseline import Baseline, read_baseline
from pytest_mergegate.report.build import gate_settings, now, versions
from pytest_mergegate.report.compared import baseline_findings, baseline_record, earlier_of
from pytest_mergegate.report.types import CacheUse, Report, TokensRecord
from pytest_mergegate.stages import pipeline
from pytest_mergegate.stages.context import BudgetQuestions, Clock, Context, Results
from pytest_mergegate.stages.preflight import UnsoundPool, load_pool
from pytest_mergegate.verdict.diagnosis import Diagnosis, diagnose
from pytest_mergegate.verdict.evidence import Case, budget_questions
from pytest_mergegate.verdict.judge import Judgement, judge
from pytest_mergegate.verdict.past_merges import AutomaticLimit, predict, resolve_limits
from pytest_mergegate.verdict.warnings import find_warnings


def assess(
    source: object,
    *,
    stage: Stage | None = None,
    device: str = Options.device,
    cache: Path | str | bool = True,
    root: Path | None = None,
    baseline: Path | str | None = None,
    registry: Path | str | None = None,
    all_methods: bool = False,
    merged: Path | str | None = None,
    **budget: float | str,
) -> Report:
    """Run a gate and return its report; no pytest needed.

    ``source`` is the path of a gate file or a mapping like one; ``stage`` the deepest stage that
    may run; ``cache`` the folder where results are kept, True for the user's own, False for none;
    ``baseline`` is a committed report to compare with; ``registry`` a file of recorded merges to
    predict losses from, which is not written to; ``all_methods`` tries every merge method under
    ``select: any``, also after one has passed; ``merged`` is the folder of a finished merge, to be
    gated in place of those that the gate makes; ``budget`` overrides single limits
    (``max_mds=3.0``); relative paths start at ``root`` (default: the working directory). An expert
    that cannot be read gives a report with ``status: error``. Raises GateFileError for a gate that
    cannot be understood, GateError for a baseline that is none and a cache
    that a pull request could have written, ValueError for an unknown stage.
    """
    if stage is not None and stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}")
    root = root or Path.cwd()
    named = None if merged is None else str(root / merged)
    gate = gate_from(source, root=root, budget=budget, merged=named)
    compared = read_baseline(root / baseline, root) if baseline is not None else None
    folder = (cache_folder() if cache else None) if isinstance(cache, bool) else Path(cache)
    if folder is not None:
        check_cache(folder)
    options = Options(
        stage=stage,
        device=device,
        cache=folder,
        registry=root / registry if registry is not None else None,
        all_methods=all_methods,
    )
    return run_gate(gate, options, compared)


def run_gate(gate: Gate, options: Options, baseline: Baseline | None = None) -> Report:
    """Take one gate down the stages, and compare it with what ``baseline`` holds of it.

    What cannot be computed makes the status ``error``.
    """
    run = _Run(gate, options, baseline)
    try:
        run.to_verdicts()
    except UnsoundPool as unsound:
        run.findings += unsound.findings
    except GateFileError as error:
        run.findings += map(file_finding, error.problems)
    except PoolError as error:
        run.findings.append(Finding.of(error))
    except GateError as error:
        run.findings.append(file_finding(error))
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        run.findings.append(file_finding(no_torch()))
    except Exception as error:  # a bug of ours must fail this gate, and leave its report behind
        logging.getLogger(__name__).exception("internal error in gate %s", gate.name)
        run.findings.append(internal_finding(error))
    else:
        return run.report()
    run.judgement = None  # no verdict stands beside an error, even where it came after the verdict
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
    """One gate on its way down: what is known of it, as it accumulates."""

    case: Case | None = None
    """What was found so far; None before there is a sound pool."""
    judgement: Judgement | None = None
    diagnoses: tuple[Diagnosis, ...] = ()
    hint: PlanRecord | None = None

    def __init__(self, gate: Gate, options: Options, baseline: Baseline | None) -> None:
        self.gate = gate
        self.options = options
        self.clock = Clock()
        self.cache = Cache(folder=options.cache, limit=options.cache_size)
        self.past = Past(options.registry, self.cache)
        self.baseline = baseline
        self.findings: list[Finding] = []
        self.automatic: dict[str, AutomaticLimit] = {}

    def to_verdicts(self) -> None:
        """Read the pool, take it down the stages that the budgets need, judge, and explain."""
        if self.options.no_code:
            refuse_code(self.gate)
        self._cap()
        with self.clock.timed("preflight"):
            pool = load_pool(self.gate)
        decide = partial(self._decide, pool)
        context = Context(self.gate, pool, self.options, self.cache, self.clock, decide)
        if self._ends_at_a_pass:
            context.passes = lambda results: self._passes(results, context.decisions.deepest)
        for results in pipeline.run(context):
            if self.case is None:  # preflight is the first to find something
                self.findings.extend(results.findings)
            # what was found before an error is reported
            self.case = self._case(results)
        depth, case = context.decisions.deepest, self._predicted(results)
        if case.hidden is not None:
            self.findings.extend(self.past.findings())
        if depth != "preflight" and (baseline := self.baseline) is not None:
            earlier = earlier_of(baseline, self.gate.path, case, gate_settings(self.gate, case))
            case = replace(case, earlier=earlier)
            self.findings.extend(baseline_findings(earlier, self.gate, case))
        self.case = case
        self.judgement = judge(self.gate, case, depth)
        if depth != "preflight" and self.gate.spec.merged is None:
            trials = trials_of(context.workspace, case.hidden.states) if case.hidden else None
            self._explain(case, self.judgement, trials)
        elif depth != "preflight":  # there are no parts of the merge to try anything with
            self.findings.extend(find_warnings(self.gate, case, self.judgement))

    def _case(self, results: Results) -> Case:
        return Case(**vars(results), automatic=self.automatic)

    def _predicted(self, results: Results) -> Case:
        """With the losses that certificates and past merges tell of."""
        case = self._case(results)
        if case.hidden is None and not case.merges:
            return case
        return replace(case, predictions=predict(case, self.past))

    @property
    def _is_compared(self) -> bool:
        """Whether what is found is held against another run's, which takes all of it."""
        return bool(self.baseline or self.options.baseline)

    @property
    def _ends_at_a_pass(self) -> bool:
        """Whether methods are left out once one passes."""
        merging = self.gate.spec.merge
        one_of_several = merging.select == "any" and len(merging.methods) > 1
        return one_of_several and not (self._is_compared or self.options.all_methods)

    def _passes(self, results: Results, depth: Stage) -> bool:
        return judge(self.gate, self._predicted(results), depth).status == "pass"

    def _cap(self) -> None:
        """Tighten the budget as the command line says."""
        budget = self.gate.spec.effective_budget.capped(self.options.caps)
        self.gate = self.gate.with_budget(budget)

    def _decide(self, pool: Pool) -> BudgetQuestions:
        """The budgets, with all limits as numbers: those that the registry sets, then the caps."""
        if self.gate.spec.effective_budget.automatic:
            self.gate, self.automatic = resolve_limits(self.gate, pool, self.past.observations)
            self._cap()
        early, stage = not self._is_compared, self.options.stage
        return budget_questions(self.gate.spec, pool, stage, may_end_early=early)

    def _explain(self, case: Case, judgement: Judgement, trials: Trials | None) -> None:
        """Why verdicts are as they are, how firm, and what to merge instead."""
        self.findings.extend(find_warnings(self.gate, case, judgement))
        if judgement.status == "fail" and self.options.progress is not None:
            self.options.progress("looking for ways out", 0.95)  # many small merges
        self.diagnoses = diagnose(self.gate, case, judgement, trials)
        with self.clock.timed("hidden"):
            remedies = [remedy for found in self.diagnoses for remedy in found.remedies]
            self.hint = hint(self.gate, case, judgement, trials, next(iter(remedies), None))

    def report(self) -> Report:
        """What was reached."""
        self._wait_for_hashes()
        diagnoses = tuple(map(build.diagnosis, self.diagnoses))
        findings = [*self.findings, *map(build.diagnosis_finding, diagnoses)]
        findings += map(cache_finding, self.cache.problems)
        case, options = self.case, self.options
        report = Report(
            status=self._status,
            gate=str(self.gate.path) if self.gate.path else self.gate.name,
            created=now(),
            versions=versions(),
            device=(case and case.device) or options.device,
            seconds={name: round(spent, 3) for name, spent in self.clock.seconds.items()},
            tokens={
                name: TokensRecord(**vars(counts))
                for name, counts in self.clock.tokens.items()
                if counts.processed or counts.reused
            },
            cache=CacheUse(hits=self.cache.hits, misses=self.cache.misses),
            settings={**options.settings, **gate_settings(self.gate, case)},
            findings=tuple(build.finding(finding, self.gate) for finding in findings),
            diagnoses=diagnoses,
            remedies=build.remedies(self.diagnoses),
            **build.sections(case, self.judgement, self.gate, self.hint),
        )
        if (baseline := self.baseline) is None:
            return report
        record = baseline_record(baseline, self.gate.path, case.earlier if case else None, report)
        return report.model_copy(update={"baseline": record})

    @property
    def _status(self) -> Status:
        if self.judgement is not None:
            return self.judgement.status
        failed = any(finding.severity == "error" for finding in self.findings)
        return "error" if failed else "inconclusive"

    def _wait_for_hashes(self) -> None:
        """What cannot be identified is not reported, let alone passed."""
        if (case := self.case) is None:
            return
        try:
            started = bool(case.conflict or case.hidden or case.merges)
            case.pool.wait_for_hashes(base=started)
        except PoolError as error:
            self.findings.append(Finding.of(error))
            self.case = self.judgement = self.hint = None
            self.diagnoses = ()
