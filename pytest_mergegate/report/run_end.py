"""The end of a run, the same for pytest and the command: what is written, said, and ended in."""

import os
from dataclasses import dataclass
from importlib import import_module

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.writing import Unwritten, write_file
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.options import Options, ReportTarget
from pytest_mergegate.preflight.runnable import UNDECIDABLE
from pytest_mergegate.report.baseline import Baseline, update_baseline
from pytest_mergegate.report.recorded import Kept, keep_losses
from pytest_mergegate.report.types import Collected, Report

_OWN = frozenset({Exit.PASSED, Exit.NOT_PASSED, Exit.NOTHING_GATED})
"""Exit codes that a gate in error goes before."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run has come to before anything of it is written."""

    found: Collected
    code: int | None = None
    """What pytest would end in, by the tests that ran; None where gates alone were run."""
    preflight_alone: bool = False
    """Whether preflight was asked for and nothing else, so that budgets may stay unjudged."""
    gated: bool = True
    """Whether any gate ran, or all that were found were rightly left out."""
    lost: tuple[str, ...] = ()
    """Gates that were asked for and never reported."""
    selected: frozenset[str] = frozenset()
    """Gate files of which single verdicts were shown, so that others may have been hidden."""
    problems: tuple[str, ...] = ()
    """What went wrong beside the gates."""
    quiet: bool = False
    """Whether as little as possible is to be said, and so nothing written that nobody asked for."""

    @property
    def sound(self) -> tuple[Report, ...]:
        """Those in which preflight alone found nothing wrong."""
        reports = self.found.reports if self.preflight_alone else ()
        return tuple(
            report
            for report in reports
            if report.status == "inconclusive"
            and all(finding.code != UNDECIDABLE for finding in report.findings)
        )

    @property
    def judged(self) -> tuple[Report, ...]:
        """The others."""
        return tuple(report for report in self.found.reports if report not in self.sound)


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """What a front door says at the end, and the exit code."""

    code: int
    notes: tuple[str, ...]
    """What was written of baseline and registry."""
    unkept: tuple[str, ...]
    """Why measured losses are not in the registry; no exit code hangs on it."""
    problems: tuple[str, ...]


def end_run(run: Run, options: Options, baseline: Baseline | None) -> RunEnd:
    """Write the reports, the baseline and the registry, and choose the exit code."""
    code, problem = _exit_code(run, options)
    notes: tuple[str, ...] = ()
    problems = [*([problem] if problem else []), *run.problems]
    for target in options.reports:
        try:
            write_report(run.found, target)
        except Unwritten as error:
            problems.append(f"the report {error}")
    if baseline is not None and options.update_baseline:
        try:
            notes = update_baseline(baseline, run.found.reports)
        except GateError as error:
            problems.append(f"the baseline was not written ({error})")
    kept, registry = Kept(), options.registry
    if registry is not None and (options.registry_asked or not (run.quiet or in_ci())):
        kept = keep_losses(registry, run.found.reports)
    return RunEnd(
        code=Exit.NOT_PASSED if problems and code == Exit.PASSED else code,
        notes=(*notes, *kept.notes),
        unkept=kept.problems,
        problems=tuple(problems),
    )


def in_ci() -> bool:
    """Whether this is a CI's run, whose checkout nobody commits."""
    return any(os.environ.get(name) for name in ("CI", "BUILD_NUMBER"))


def write_report(found: Collected, target: ReportTarget) -> None:
    """Write the reports of a run as ``target`` asks. Raises Unwritten."""
    form = import_module(f"pytest_mergegate.report.formats.{target.format}")
    write_file(target.path, form.render(found))


def _exit_code(run: Run, options: Options) -> tuple[int, str | None]:
    """The exit code by what was gated, and what to say of it that no verdict has said."""
    passed = all(report.status == "pass" for report in run.judged)
    code = run.code
    if code is None:
        code = Exit.PASSED if passed else Exit.NOT_PASSED
    if code in _OWN and any(report.status == "error" for report in run.found.reports):
        return Exit.UNREADABLE, None
    if code != Exit.PASSED:
        return code, None
    if not run.gated:
        return Exit.NOTHING_GATED, "asked to gate, but no gate ran"
    if run.lost:
        more = f" and {len(run.lost) - 1} more" if len(run.lost) > 1 else ""
        return Exit.NOT_PASSED, f"collected, but never reported: {run.lost[0]}{more}"
    tolerated = {"pass", "inconclusive"} if options.on_inconclusive == "warn" else {"pass"}
    reports = (report for report in run.judged if report.gate in run.selected)
    hidden = [run.found.name(report) for report in reports if report.status not in tolerated]
    if hidden:
        told = ", ".join(hidden)
        return Exit.NOT_PASSED, f"not passed, though the items selected of it did: {told}"
    return Exit.PASSED, None
