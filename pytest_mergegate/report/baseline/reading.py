"""The file of a baseline, and the gates in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import GateError, first_line
from pytest_mergegate.common.files.regular_files import read_own
from pytest_mergegate.common.files.writing import refuse_links
from pytest_mergegate.report.collected import read_reports

if TYPE_CHECKING:
    from pytest_mergegate.report.types import Report


HOW_TO_WRITE_ANEW = "--update-baseline (pytest: --mergegate-update-baseline)"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a run is compared with."""

    path: Path
    root: Path
    """Where the paths that people are shown start."""
    reports: tuple[Report, ...] | None
    """None where there is no such file."""

    @property
    def shown(self) -> str:
        """The file as people are shown it."""
        inside = self.path.is_relative_to(self.root)
        return (self.path.relative_to(self.root) if inside else self.path).as_posix()

    def key(self, gate: Path) -> str:
        """What the file calls a gate: its path from the file's own folder, with slashes."""
        return _relative(gate, self.path.parent)

    def key_of(self, report: Report) -> str:
        """The same of a report of this run."""
        return self.key(self.root / report.gate)

    def entry(self, gate: Path) -> Report | None:
        """The report on ``gate``, the deepest where there are several; None where there is none.

        What ``--report json`` wrote names gates from the root, or by their whole path.
        """
        names = {self.key(gate), _absolute(gate).as_posix()}
        from_root = _relative(gate, self.root)
        if not (self.path.parent / from_root).exists():  # or it names another gate, beside the file
            names.add(from_root)
        found = [report for report in self.reports or () if report.gate in names]
        return max(found, key=depth, default=None)


def read_baseline(path: Path, root: Path) -> Baseline:
    """Read a baseline; a file that is not there has nothing in it.

    Raises GateError for one that cannot be read, or is none.
    """
    baseline = Baseline(path=path, root=root, reports=None)
    try:
        refuse_links(path)
        reports = read_reports(read_own(path).decode()).reports
    except FileNotFoundError:
        return baseline
    except OSError as error:
        raise GateError(
            f"the baseline cannot be read ({error.strerror})", where=baseline.shown
        ) from None
    except (ValueError, RecursionError) as error:  # also what is not UTF-8, not JSON, no report
        raise GateError(
            f"this is no baseline: {' '.join(str(first_line(error)).split())}",
            where=baseline.shown,
            fix="restore it from version control, or remove it and write it anew with "
            f"{HOW_TO_WRITE_ANEW}",
        ) from None
    return Baseline(path=path, root=root, reports=reports)


def depth(report: Report) -> int:
    """How far the stages went, by what the report has of them."""
    measured = any(expert.loss is not None for merge in report.merges for expert in merge.experts)
    hidden = any(pair.distance is not None for pair in report.pairs)
    return [bool(report.pairs), hidden, bool(report.merges), measured].count(True)


def _absolute(path: Path) -> Path:
    """Without the links on the way, but by its own name."""
    return path.parent.resolve() / path.name


def _relative(path: Path, folder: Path) -> str:
    absolute = _absolute(path)
    try:
        return Path(os.path.relpath(absolute, folder.resolve())).as_posix()
    except ValueError:  # another drive
        return absolute.as_posix()
