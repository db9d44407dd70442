"""The gates of one pytest session: assessed once, judged per item, reported at the end."""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from pytest_mergegate.common.errors import GateError, GateFileError
from pytest_mergegate.common.plain_text import printable
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.options import Options
from pytest_mergegate.pool.pool import pool_state
from pytest_mergegate.report.baseline import Baseline, read_baseline
from pytest_mergegate.report.formats.failures import failure_text
from pytest_mergegate.report.formats.junit import properties
from pytest_mergegate.report.formats.terminal import (
    Look,
    encoding_of,
    progress_bar,
    summary,
)
from pytest_mergegate.report.gating import error_report, run_gate
from pytest_mergegate.report.run_end import Run, RunEnd, end_run
from pytest_mergegate.report.types import Collected, Report
from pytest_mergegate.testing.items import GateItem, GateNotPassed, gate_of
from pytest_mergegate.testing.workers import clean_up, shared

PROPERTY = "mergegate"
_GATE: pytest.StashKey[Gate] = pytest.StashKey()
"""Of a test that was assessed."""


class GateSession:
    """Registered as a plugin while the gates are on, in the controller and in every worker."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.config = config
        self.options = options
        self._assessed: dict[str, Report] = {}
        self._unreadable: dict[str, Report] = {}
        self._received: dict[str, Report] = {}
        self._expected: set[str] = set()
        self._ran: set[str] = set()
        self._skipped: set[str] = set()
        self._files: set[str] = set()
        self._end: RunEnd | None = None
        self._baseline: Baseline | None = None
        if options.baseline is not None:
            try:
                self._baseline = read_baseline(options.baseline, config.rootpath)
            except GateError as error:
                pytest.exit(f"mergegate: {error}", returncode=int(pytest.ExitCode.INTERRUPTED))

    def report(self, gate: Gate) -> Report:
        """The report on a gate, computed once per session and shared between workers."""
        key = _key(gate, self.options)
        if key not in self._assessed:
            self._assessed[key] = shared(self.config, key, lambda: self._compute(gate))
        return self._assessed[key]

    def note_unreadable(self, nodeid: str, error: GateFileError) -> None:
        """Keep a report of a gate file that could not be collected."""
        self._unreadable[nodeid] = error_report(nodeid, error, self.options)

    def assess_for(self, request: pytest.FixtureRequest) -> Report:
        """The report on the pool of ``request``'s test."""
        try:
            gate = gate_of(request)
        except GateFileError as error:
            self.note_unreadable(request.node.nodeid, error)
            _attach(request.node, self._unreadable[request.node.nodeid], None)
            _fail(str(error))
        request.node.stash[_GATE] = gate
        return self.require_computed(request.node, gate, None)

    def built(self, request: pytest.FixtureRequest, expert: str | None) -> Any:
        """One expert of the test's pool, or, for None, what was merged of it, as a model."""
        from pytest_mergegate.merging.build import build_expert_model, build_merged_model

        report = self.assess_for(request)
        gate, device = request.node.stash[_GATE], self.options.device
        judged = next((m for m in report.merges if m.method == report.judged_method), None)
        try:
            if expert is not None:
                return build_expert_model(gate, expert, device)
            return build_merged_model(gate, judged, device)
        except GateError as error:
            _fail(str(error))

    # -- judging -------------------------------------------------------------------------------

    def require_computed(self, item: pytest.Item, gate: Gate, expert: str | None) -> Report:
        """The report; fails, without a traceback, where the pool could not be read or computed."""
        report = self.report(gate)
        if report.status == "error":
            _attach(item, report, expert)
            _fail(failure_text(report, expert))
        return report

    def require_passed(self, item: pytest.Item, gate: Gate, expert: str | None) -> None:
        """Raise where a verdict on ``expert`` (None: on any expert) is no pass."""
        report = self.report(gate)
        _attach(item, report, expert)
        statuses = {v.status for v in report.verdicts if expert in (None, v.expert)}
        if not statuses:
            statuses = {"inconclusive"}  # no verdict is no pass
        if statuses == {"pass"} and (expert is not None or report.status == "pass"):
            return
        # where every expert has an item in this run, theirs say what failed
        items = (other for other in item.session.items if isinstance(other, GateItem))
        named = {other.expert for other in items if other.gate is gate}
        brief = isinstance(item, GateItem) and named >= set(gate.spec.experts)
        whole = self.config.get_verbosity("mergegate") > 0
        text = failure_text(report, expert, brief=brief, whole=whole)
        if "fail" not in statuses and self.options.on_inconclusive == "warn":
            item.warn(pytest.PytestWarning(f"undecided merge gate: {text}"))
            return
        raise GateNotPassed(text)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Hold the budgets of a marked test before its body."""
        if item.get_closest_marker("mergeable"):
            gate = item.stash.get(_GATE, None)
            if gate is None:
                # an item without fixtures (a doctest, say) has not been assessed
                _fail("mergeable only marks test functions and methods")
            try:
                self.require_passed(item, gate, None)
            except GateNotPassed as error:
                _fail(str(error))
        return (yield)

    # -- bookkeeping: every collected gate must report, here and under xdist ---------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which items are gates."""
        self._expected |= {
            item.nodeid
            for item in session.items
            if isinstance(item, GateItem) or item.get_closest_marker("mergeable")
        }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which gates have reported; one that the user skips has, with a reason."""
        said = next((value for name, value in report.user_properties if name == PROPERTY), None)
        if said is not None:
            self._ran.add(report.nodeid)
            data = json.loads(str(said))
            if data["expert"] is not None:
                self._files.add(data["gate"])
        elif report.skipped and not hasattr(report, "wasxfail"):
            self._skipped.add(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what an xdist worker found; a crashed one has sent nothing."""
        sent = getattr(node, "workeroutput", {}).get(PROPERTY)
        if sent is None:
            return
        data = json.loads(sent)
        self._expected |= set(data["expected"])
        for key, text in data["assessed"].items():
            self._received[key] = Report.from_json(text)
        for nodeid, text in data["unreadable"].items():
            self._unreadable[nodeid] = Report.from_json(text)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Set the exit code, write the reports, and never let an unreported gate pass."""
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            data = {
                "expected": sorted(self._expected),
                "assessed": {k: r.to_json(None) for k, r in self._assessed.items()},
                "unreadable": {n: r.to_json(None) for n, r in self._unreadable.items()},
            }
            output[PROPERTY] = json.dumps(data)
            return
        listing = ("collectonly", "showfixtures", "show_fixtures_per_test", "cacheshow")
        if not any(self.config.getoption(option, None) for option in listing):
            self._end = end_run(self._run(int(exitstatus)), self.options, self._baseline)
            session.exitstatus = self._end.code
        clean_up(self.config)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table on failure or -v, else one line per gate."""
        if self._end is None:
            return
        look = Look(
            verbosity=self.config.get_verbosity("mergegate"),
            color=terminalreporter.hasmarkup,
            root=self.config.rootpath,
            encoding=encoding_of(sys.__stdout__),
        )
        text = summary(self.reports, look)
        if text:
            terminalreporter.ensure_newline()
            terminalreporter.section("merge gates", sep="=")
            terminalreporter.write(text)
        for note in (*self._end.notes, *self._end.unkept):
            terminalreporter.write_line(printable(note))
        for problem in self._end.problems:
            terminalreporter.write_line(printable(f"mergegate: {problem}"), red=True)

    @property
    def reports(self) -> tuple[Report, ...]:
        """One report per gate, in a stable order."""
        assessed = {**self._received, **self._assessed}.values()
        found = [*assessed, *self._unreadable.values()]
        return tuple(sorted(found, key=lambda report: report.gate))

    def _run(self, code: int) -> Run:
        """What there is to say of the run; hands every report to whoever implements the hook."""
        # the run stopped, or a worker died, before these have reported
        lost = tuple(sorted(self._expected - self._ran - self._skipped))
        root = self.config.rootpath
        return Run(
            found=Collected(reports=self.reports, complete=not lost, root=root),
            code=code,
            gated=bool(self._ran),
            lost=lost,
            selected=frozenset(self._files),
            problems=tuple(self._hand_over()),
            quiet=self.config.get_verbosity("mergegate") < 0,
        )

    def _hand_over(self) -> Iterator[str]:
        hook = self.config.hook.pytest_mergegate_report
        for report in self.reports:
            try:
                hook(report=report, config=self.config)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # sys.exit must not set the exit code, nor lose reports
                yield f"{hook.name} raised {type(error).__name__}: {error} ({report.gate})"

    def _compute(self, gate: Gate) -> Report:
        """Run the gate, and show how far it is."""
        hook = self.config.hook.pytest_mergegate_evaluate
        # a model has to be lent to the hook, so only where anybody implements it by now
        options = replace(self.options, scorer=hook if hook.get_hookimpls() else None)
        capture = self.config.pluginmanager.getplugin("capturemanager")
        if capture is None or self.config.option.verbose < 0:
            return run_gate(gate, options, self._baseline)
        with capture.global_and_fixture_disabled(), progress_bar() as tell:
            return run_gate(gate, replace(options, progress=tell), self._baseline)


def _fail(text: str) -> NoReturn:
    """Fail with that text alone: after the exception that it comes from, it would stand twice."""
    raise pytest.fail.Exception(text, pytrace=False) from None


def _key(gate: Gate, options: Options) -> str:
    said: list[object] = [str(gate.path), str(gate.root), gate.spec.model_dump_json()]
    said.append(gate.mergekit and dict(gate.mergekit.config))
    said += [options.stage, sorted(options.caps.items()), options.device, pool_state(gate)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _attach(item: pytest.Item, report: Report, expert: str | None) -> None:
    """Hang the verdicts on the item: as one JSON string for the controller, and for people."""
    verdicts = [v.model_dump() for v in report.verdicts if expert in (None, v.expert)]
    data = {"gate": report.gate, "expert": expert, "status": report.status, "verdicts": verdicts}
    if all(name != PROPERTY for name, _ in item.user_properties):
        item.user_properties.append((PROPERTY, json.dumps(data, allow_nan=False)))
        item.user_properties.extend(properties(report, expert))
