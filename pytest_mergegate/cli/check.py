"""``mergegate check``: the gates outside a test suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.cli.parser import options_of
from pytest_mergegate.cli.selecting import concerned, find_gates, too_few
from pytest_mergegate.common.errors import GateError, GateFileError, UsageError
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.option_table import OPTIONS, REGISTRY, check_place
from pytest_mergegate.verdict.budgets import cap_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_mergegate.cli.parser import Commands
    from pytest_mergegate.gate.options import Options
    from pytest_mergegate.report.baseline import Baseline
    from pytest_mergegate.report.run_end import Run, RunEnd
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
    alone = "preflight alone exits 0 where nothing is wrong, and judges no budget"
    check.add_options(
        (*cap_options(), *(option for option in OPTIONS.values() if "command" in option.where)),
        stage=f"{OPTIONS['stage'].help}; {alone}",
        registry=f"append measured losses to this file (default: {REGISTRY})",
    )
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
    """Run the gates; returns the exit code. Raises UsageError."""
    from pytest_mergegate.report.baseline import read_baseline
    from pytest_mergegate.report.run_end import Run, end_run
    from pytest_mergegate.report.types import Collected

    options = options_of(chosen)
    baseline = read_baseline(options.baseline, Path.cwd()) if options.baseline else None
    if chosen.output is not None and chosen.changed_since is not None:
        raise UsageError("--output writes a merge; --changed-since may leave its gate out")
    found = find_gates(chosen)
    if len(found) < max(1, chosen.require_gates):
        complain([too_few(found, chosen.require_gates)])
        return Exit.NOTHING_GATED
    files = concerned(found, chosen, options.baseline)
    if files and chosen.output is not None:
        _check_output(chosen.output, files, options)
    # where every gate is left out, each would come out as it did before
    reports = tuple(_assess(file, found[file], options, baseline) for file in files)
    came_to = Run(
        found=Collected(reports=reports, root=Path.cwd()),
        preflight_alone=options.stage == "preflight",
    )
    end = end_run(came_to, options, baseline)
    _print(came_to, end, verbosity=chosen.verbose - chosen.quiet)
    if end.code != Exit.PASSED or chosen.output is None or not files:
        return end.code
    return _write_merge(files[0], reports[0], options, chosen)


def _print(came_to: Run, end: RunEnd, *, verbosity: int) -> None:
    from pytest_mergegate.report.formats.terminal import Look, encoding_of
    from pytest_mergegate.report.run_end import summary_of

    look = Look(
        verbosity=verbosity,
        color=sys.stdout.isatty(),
        root=Path.cwd(),
        reasons=True,
        encoding=encoding_of(sys.stdout),
    )
    sys.stdout.write(summary_of(came_to, look))
    if verbosity >= 0:
        say(end.notes)
    complain((*end.problems, *end.unkept))


def _check_output(folder: Path, files: Sequence[Path], options: Options) -> None:
    """Raise UsageError for what is known to go wrong before anything is computed."""
    if len(files) > 1:
        raise UsageError(f"--output takes exactly one gate, there are {len(files)}")
    if options.stage in {"preflight", "conflict", "hidden"}:
        raise UsageError(f"--output writes a merge; --stage {options.stage} makes none")
    check_place(folder, "--output")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--output: {folder} is there already, and is no folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--output: the folder {folder} is not empty")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"--output: there is no folder {folder.absolute().parent}")


def _write_merge(file: Path, report: Report, options: Options, chosen: argparse.Namespace) -> int:
    from pytest_mergegate.gate.gatefile import load_gate
    from pytest_mergegate.merging.build import write_merged

    method = report.judged_method
    judged = next((m for m in report.merges if m.method == method), None)
    base = report.base.fingerprint if report.base else None
    try:
        write_merged(
            load_gate(file),
            judged,
            device=options.device,
            fingerprints={None: base, **{e.name: e.fingerprint for e in report.experts}},
            target=chosen.output.absolute(),
        )
    except GateError as error:
        complain(str(error).splitlines())
        return Exit.UNREADABLE
    if chosen.quiet == 0:
        say([f"the merge{f' {method}' if method else ''} was written to {chosen.output}"])
    return Exit.PASSED


def _assess(
    file: Path, refused: GateFileError | None, options: Options, baseline: Baseline | None
) -> Report:
    from dataclasses import replace

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
        return run_gate(gate, replace(options, progress=tell), baseline)
