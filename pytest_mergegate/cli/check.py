"""``mergegate check``: the gates outside a test suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.cli.exits import Exit
from pytest_mergegate.cli.selecting import concerned, find_gates, too_few
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.gate import settings
from pytest_mergegate.verdict.budgets import BUDGETS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_mergegate.cli.parser import Commands
    from pytest_mergegate.common.errors import GateFileError
    from pytest_mergegate.gate.options import Options
    from pytest_mergegate.report.collected import Collected
    from pytest_mergegate.report.types import Report


def add_to(commands: Commands) -> None:
    """Declare the command."""
    check = commands.add_parser("check", help="run gates", description="Run gates.")
    check.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="gate files, or folders of them (default with --changed-since: the repository)",
    )
    check.add_argument(
        "--changed-since",
        metavar="REF",
        help="leave out gates that no change since HEAD parted from REF concerns",
    )
    check.add_argument(
        "--require-gates",
        type=int,
        metavar="N",
        default=1,
        help="how many gate files must be found, whatever has changed (default: 1)",
    )
    for name, option in ((b.name, b.option) for b in BUDGETS.values() if b.option is not None):
        text = f"{option.help}; tightens every gate"
        flag = f"--{name.replace('_', '-')}"
        check.add_argument(flag, type=float, metavar=option.metavar, help=text)
    check.add_argument(
        "--stage",
        metavar="STAGE",
        help="|".join(settings.STAGES)
        + "; preflight alone exits 0 where nothing is wrong, and judges no budget",
    )
    check.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:i]")
    check.add_argument("--executor", default="local", metavar="local|ray[:ADDRESS]")
    check.add_argument("--cache", metavar="DIR", help="where results are kept between runs")
    check.add_argument("--no-cache", action="store_true", help="keep no results, and use none")
    check.add_argument(
        "--report", action="append", default=[], metavar="FORMAT[:PATH]", help="may be repeated"
    )
    check.add_argument(
        "--baseline", type=Path, metavar="PATH", help="compare with a committed JSON report"
    )
    check.add_argument(
        "--update-baseline", action="store_true", help="write the baseline anew with what was found"
    )
    check.add_argument(
        "--registry",
        metavar="PATH",
        help=f"append measured losses to this file (default: {settings.REGISTRY})",
    )
    check.add_argument("--no-registry", action="store_true", help="keep no measured losses")
    check.add_argument("--no-code", action="store_true", help=settings.NO_CODE)
    check.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write the merge of the one gate there, once it has passed",
    )
    volume = check.add_mutually_exclusive_group()
    volume.add_argument("-v", "--verbose", action="count", default=0)
    volume.add_argument("-q", "--quiet", action="count", default=0)
    check.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Run the gates; returns the exit code. Raises pytest.UsageError."""
    from pytest_mergegate.gate.options import Options
    from pytest_mergegate.report.baseline.reading import read_baseline
    from pytest_mergegate.report.collected import Collected

    caps = {
        name: settings.check_cap(kind, value)
        for name, kind in BUDGETS.items()
        if (value := getattr(chosen, name, None)) is not None
    }
    targets = [settings.parse_report(entry, Path.cwd()) for entry in chosen.report]
    registry = settings.parse_registry(chosen.registry, Path.cwd(), none=chosen.no_registry)
    options = Options(
        stage=settings.parse_stage(chosen.stage),
        caps=caps,
        device=settings.parse_device(chosen.device),
        executor=settings.parse_executor(chosen.executor),
        cache=settings.parse_cache(chosen.cache, Path.cwd(), none=chosen.no_cache),
        baseline=read_baseline(path, Path.cwd()) if (path := _baseline(chosen)) else None,
        registry=registry,
        no_code=chosen.no_code,
    )
    if chosen.output is not None and chosen.changed_since is not None:
        raise pytest.UsageError("--output writes a merge; --changed-since may leave its gate out")
    found = find_gates(chosen)
    if len(found) < max(1, chosen.require_gates):
        complain([too_few(found, chosen.require_gates)])
        return Exit.NOTHING_GATED
    files = concerned(found, chosen, options.baseline)
    if not files:  # every gate was looked at, and would come out as it did before
        nothing = Collected(reports=(), root=Path.cwd())
        written = [_write(nothing, target) for target in targets]
        return Exit.PASSED if all(written) else Exit.NOT_PASSED
    if chosen.output is not None:
        _check_output(chosen.output, files, options)
    reports = [_assess(file, found[file], options) for file in files]
    # who asks here for preflight alone has asked for no verdict on the budgets
    sound = [r for r in reports if options.stage == "preflight" and r.status == "inconclusive"]
    judged = [report for report in reports if report not in sound]
    _print(sound, judged, verbosity=chosen.verbose - chosen.quiet)
    collected = Collected(reports=tuple(reports), root=Path.cwd())
    written = [_write(collected, target) for target in targets]
    written.append(_update_baseline(reports, options, chosen))
    _append_to_registry(registry, reports)
    statuses = {report.status for report in judged}
    if "error" in statuses:
        return Exit.UNREADABLE
    if not (statuses <= {"pass"} and all(written)):
        return Exit.NOT_PASSED
    return Exit.PASSED if chosen.output is None else _output(files[0], reports[0], chosen)


def _baseline(chosen: argparse.Namespace) -> Path | None:
    path = chosen.baseline and Path.cwd() / chosen.baseline
    return settings.parse_baseline(path, update=chosen.update_baseline, option="--baseline")


def _update_baseline(
    reports: Sequence[Report], options: Options, chosen: argparse.Namespace
) -> bool:
    """Whether nothing went wrong."""
    from pytest_mergegate.common.errors import GateError
    from pytest_mergegate.report.baseline.rewriting import update_baseline

    if options.baseline is None or not chosen.update_baseline:
        return True
    try:
        told = update_baseline(options.baseline, reports)
    except GateError as error:
        complain([f"the baseline was not written ({error})"])
        return False
    if chosen.quiet == 0:
        say(told)
    return True


def _append_to_registry(registry: Path | None, reports: Sequence[Report]) -> None:
    """Keep the losses that were measured; no exit code hangs on it."""
    from pytest_mergegate.report.recorded import keep_losses

    if registry is not None:
        complain(keep_losses(registry, reports))


def _check_output(folder: Path, files: Sequence[Path], options: Options) -> None:
    """Raise pytest.UsageError for what is known to go wrong before anything is computed."""
    if len(files) > 1:
        raise pytest.UsageError(f"--output takes exactly one gate, there are {len(files)}")
    if options.stage in {"preflight", "conflict", "hidden"}:
        raise pytest.UsageError(f"--output writes a merge; --stage {options.stage} makes none")
    settings.check_place(folder, "--output")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise pytest.UsageError(f"--output: {folder} is there already, and is no folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise pytest.UsageError(f"--output: the folder {folder} is not empty")
    if not folder.absolute().parent.is_dir():
        raise pytest.UsageError(f"--output: there is no folder {folder.absolute().parent}")


def _output(file: Path, report: Report, chosen: argparse.Namespace) -> int:
    from pytest_mergegate.common.errors import GateError
    from pytest_mergegate.gate.gatefile import load_gate
    from pytest_mergegate.merging.write import write_merged

    method = report.judged_method
    judged = next((m for m in report.merges if m.method == method), None)
    folder: Path = chosen.output
    try:
        write_merged(
            load_gate(file),
            judged,
            device=chosen.device,
            fingerprints=_fingerprints(report),
            target=folder.absolute(),
        )
    except GateError as error:
        complain(str(error).splitlines())
        return Exit.UNREADABLE
    if chosen.quiet == 0:
        say([f"the merge{f' {method}' if method else ''} was written to {folder}"])
    return Exit.PASSED


def _print(sound: Sequence[Report], judged: Sequence[Report], *, verbosity: int) -> None:
    from pytest_mergegate.report.formats.terminal import (
        Look,
        encoding_of,
        preflight_summary,
        summary,
    )

    look = Look(
        verbosity=verbosity,
        color=sys.stdout.isatty(),
        root=Path.cwd(),
        reasons=True,
        encoding=encoding_of(sys.stdout),
    )
    sys.stdout.write(preflight_summary(sound, look))
    sys.stdout.write(summary(judged, look))


def _write(reports: Collected, target: settings.ReportTarget) -> bool:
    from pytest_mergegate.common.files.writing import Unwritten
    from pytest_mergegate.report.files import write_report

    try:
        write_report(reports, target)
    except Unwritten as error:
        complain([str(error)])
        return False
    return True


def _fingerprints(report: Report) -> dict[str | None, str | None]:
    """Of the experts by name, and of the base under None, as far as they were taken."""
    own = report.base.fingerprint if report.base else None
    return {None: own, **{expert.name: expert.fingerprint for expert in report.experts}}


def _assess(file: Path, refused: GateFileError | None, options: Options) -> Report:
    from dataclasses import replace

    from pytest_mergegate.common.errors import GateFileError
    from pytest_mergegate.gate.gatefile import load_gate
    from pytest_mergegate.report.formats.progress import progress_bar
    from pytest_mergegate.report.gating import error_report, run_gate

    try:
        if refused is not None:
            raise refused
        gate = load_gate(file)
    except GateFileError as error:
        return error_report(str(file), error, options)
    with progress_bar() as tell:
        return run_gate(gate, replace(options, progress=tell))
