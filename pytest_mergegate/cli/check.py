"""``mergegate check``: the gates outside a test suite."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pytest_mergegate.cli import Parser, options_of
from pytest_mergegate.common.errors import GateFileError, UsageError
from pytest_mergegate.common.files.documents import in_document
from pytest_mergegate.common.files.yaml_files import documents_of
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.discovery import gates_below, refusals
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.gate.option_table import OPTIONS, REGISTRY, check_place
from pytest_mergegate.gate.options import Options
from pytest_mergegate.report.baseline import Baseline, read_baseline
from pytest_mergegate.report.formats.terminal import Look, encoding_of, progress_bar, summary
from pytest_mergegate.report.gating import error_report, run_gate
from pytest_mergegate.report.run_end import Run, RunEnd, end_run
from pytest_mergegate.report.types import Collected, Report
from pytest_mergegate.verdict.budgets import cap_options

Gates = dict[Path, GateFileError | None]
"""Gate files; with why one must not run that lies among the data of strangers."""


def add_to(check: Parser) -> None:
    """Declare the arguments."""
    told = "gate files, or folders of them (default with --changed-since: the repository)"
    check.add_argument("paths", nargs="*", type=Path, metavar="PATH", help=told)
    told = "run only gates affected by changes since the merge base with REF"
    check.add_argument("--changed-since", metavar="REF", help=told)
    told = "how many gate files must be found, whatever has changed (default: 1)"
    check.add_argument("--require-gates", type=int, metavar="N", default=1, help=told)
    alone = "preflight alone exits 0 where nothing is wrong, and judges no budget"
    check.add_options(
        (*cap_options(), *(option for option in OPTIONS.values() if "command" in option.where)),
        stage=f"{OPTIONS['stage'].help}; {alone}",
        registry=f"append measured losses to this file (default: {REGISTRY})",
    )
    told = "write the merge of the one gate there, once it has passed"
    check.add_argument("--output", type=Path, metavar="DIR", help=told)
    volume = check.add_mutually_exclusive_group()
    told = "say all that was found, of all gates; -vv also the conflicts by layer"
    volume.add_argument("-v", "--verbose", action="count", default=0, help=told)
    told = "one line for each gate that did not pass; write no registry that is not named"
    volume.add_argument("-q", "--quiet", action="count", default=0, help=told)


def run(chosen: argparse.Namespace) -> int:
    """Run the gates; returns the exit code. Raises UsageError, and GateError for a merge that
    cannot be written."""
    options = options_of(chosen)
    baseline = read_baseline(options.baseline, Path.cwd()) if options.baseline else None
    if chosen.output is not None and chosen.changed_since is not None:
        raise UsageError("--output writes a merge; --changed-since may leave its gate out")
    found = _find_gates(chosen)
    if len(found) < max(1, chosen.require_gates):
        complain([_too_few(found, chosen.require_gates)])
        return Exit.NOTHING_GATED
    files = _concerned(found, chosen, options)
    if files and chosen.output is not None:
        _check_output(chosen.output, files, options)
    # where every gate is left out, each would come out as it did before
    quiet = chosen.quiet > 0
    reports = tuple(_assess(f, found[f], options, baseline, quiet=quiet) for f in files)
    came_to = Run(
        found=Collected(reports=reports, root=Path.cwd()),
        preflight_alone=options.stage == "preflight",
        quiet=quiet,
    )
    end = end_run(came_to, options, baseline)
    _print(came_to, end, verbosity=chosen.verbose - chosen.quiet)
    if end.code == Exit.PASSED and chosen.output is not None and files:
        _write_merge(files[0], reports[0], options, chosen)
    return end.code


def _find_gates(chosen: argparse.Namespace) -> Gates:
    """Every gate file that was named, or lies in a folder that was. Raises UsageError."""
    paths = chosen.paths
    if not paths:
        if chosen.changed_since is None:
            raise UsageError("name a gate file, or a folder of them")
        from pytest_mergegate.cli.changed_since import repository

        top = repository(Path.cwd())
        paths = [Path() if top == Path.cwd() else top]
    found: Gates = {}
    for path in paths:
        if path.is_dir():
            files = gates_below(path)
            here = path.absolute().is_relative_to(Path.cwd())
            found |= dict.fromkeys(files) | refusals(files, start=Path.cwd() if here else path)
        elif not in_document(path)[0].exists():
            raise UsageError(f"there is no file or folder {path}")
    found |= dict.fromkeys(path for path in paths if not path.is_dir())
    return {
        one: why for path, why in found.items() for one in ([path] if why else documents_of(path))
    }


def _too_few(found: Gates, required: int) -> str:
    names = "they are called mergegate.yaml or *.mergegate.yaml"
    if not found:
        return f"no gate file found; {names}"
    listed = ", ".join(file.as_posix() for file in found)
    return f"{len(found)} gates found, --require-gates {required} asks for more ({listed}); {names}"


def _concerned(found: Gates, chosen: argparse.Namespace, options: Options) -> list[Path]:
    """Those that changes since ``--changed-since`` concern, all of them without it; says which
    are left out. Raises UsageError."""
    since = chosen.changed_since
    if since is None:
        return list(found)
    from pytest_mergegate.cli.changed_since import changes_since

    changes = changes_since(since, next(iter(found)).absolute().parent)
    moved = options.baseline is not None and changes.touch(options.baseline)
    kept = [
        file
        for file, refused in found.items()
        if moved
        or refused
        or changes.concern(
            file, registry=options.registry, caps=options.caps, merged=options.merged
        )
    ]
    left_out = ", ".join(file.as_posix() for file in found if file not in kept)
    if chosen.quiet == 0 and not kept:
        looked_at = f"({len(found)} gate{'s' * (len(found) != 1)} looked at)"
        none = f"no gate is concerned by the changes since {since} {looked_at}"
        say([f"{none}: left out {left_out}"])
    elif chosen.quiet == 0 and left_out:
        say([f"not concerned by the changes since {since}, and left out: {left_out}"])
    return kept


def _assess(
    file: Path,
    refused: GateFileError | None,
    options: Options,
    baseline: Baseline | None,
    *,
    quiet: bool,
) -> Report:
    try:
        if refused is not None:
            raise refused
        gate = load_gate(file, merged=options.merged)
    except GateFileError as error:
        return error_report(str(file), error, options)
    with progress_bar() as tell:
        return run_gate(gate, replace(options, progress=None if quiet else tell), baseline)


def _print(came_to: Run, end: RunEnd, *, verbosity: int) -> None:
    look = Look(
        verbosity=verbosity,
        color=sys.stdout.isatty(),
        root=Path.cwd(),
        reasons=True,
        encoding=encoding_of(sys.stdout),
    )
    sys.stdout.write(summary(came_to.judged, look, came_to.sound))
    if verbosity >= 0:
        say(end.notes)
    complain((*end.problems, *end.unkept))


def _check_output(folder: Path, files: Sequence[Path], options: Options) -> None:
    """Raise UsageError for what is known to go wrong before anything is computed."""
    if len(files) > 1:
        raise UsageError(f"--output takes exactly one gate, there are {len(files)}")
    with suppress(GateFileError):  # the gate will say what is wrong with the file
        if load_gate(files[0], merged=options.merged).spec.merged is not None:
            raise UsageError("--output writes a merge that the gate makes; this one exists already")
    if options.stage in {"preflight", "conflict", "hidden"}:
        raise UsageError(f"--output writes a merge; --stage {options.stage} makes none")
    check_place(folder, "--output")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--output: {folder} is there already, and is no folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--output: the folder {folder} is not empty")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"--output: there is no folder {folder.absolute().parent}")


def _write_merge(file: Path, report: Report, options: Options, chosen: argparse.Namespace) -> None:
    """Write the merge that was judged. Raises GateError."""
    from pytest_mergegate.merging.build import write_merged  # with torch

    method = report.judged_method
    base = report.base.fingerprint if report.base else None
    write_merged(
        load_gate(file),
        next((merge for merge in report.merges if merge.method == method), None),
        device=options.device,
        fingerprints={None: base, **{e.name: e.fingerprint for e in report.experts}},
        target=chosen.output.absolute(),
    )
    if chosen.quiet == 0:
        say([f"the merge{f' {method}' if method else ''} was written to {chosen.output}"])
