"""A committed report to compare with: reading it, finding a gate in it, and writing it anew."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import GateError, first_line
from pytest_mergegate.common.files.documents import in_document
from pytest_mergegate.common.files.reading import read_own
from pytest_mergegate.common.files.writing import refuse_links, write_file
from pytest_mergegate.report.formats.json import read_reports, render_all
from pytest_mergegate.report.merge_records import MergeRecord
from pytest_mergegate.report.types import Collected, Report
from pytest_mergegate.verdict.increases import moved

HOW_TO_WRITE_ANEW = "--update-baseline (pytest: --mergegate-update-baseline)"
COMPARED: dict[str, tuple[str, ...]] = {
    "probes": ("drawn_per_task", "seed", "positions", "normalize", "max_answer_tokens"),
    "certificate": ("per_task", "max_per_task", "confidence"),
    "merge": ("weights", "seed", "route"),
}
"""The settings by section that must agree; methods are compared one by one."""
WHOLE = ("dtype", "trust_remote_code", "mergekit")
BY_EXPERT = ("score", "metric", "reading", "examples")
_PASSING = {"created", "versions", "device", "status"}
"""What may differ between two entries that say the same."""


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

    def entry(self, gate: Path) -> Report | None:
        """The report on ``gate``, the deepest where there are several; None where there is none.

        What ``--report json`` wrote names gates from the root, or by their whole path.
        """
        names = {self.key(gate), _absolute(gate).as_posix()}
        from_root = _relative(gate, self.root)
        beside, _ = in_document(self.path.parent / from_root)
        if not beside.exists():  # or it names another gate, beside the file
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


def update_baseline(baseline: Baseline, reports: Iterable[Report]) -> tuple[str, ...]:
    """Rewrite the file with what ``reports`` have found; returns what to tell of it, in lines.

    Only what they have computed, and only where it says something else: entries of gates that were
    not seen, could not be computed, or were not computed as deeply, stay.
    Raises GateError for a file that has become unreadable meanwhile, or cannot be written.
    """
    # read again: another run may have written to it while this one computed
    found = read_baseline(baseline.path, baseline.root)
    entries = {report.gate: report for report in found.reports or ()}
    counts = {"added": 0, "rewritten": 0, "unchanged": 0}
    kept: list[str] = []
    # of two on one gate, the deeper one
    for key, report in {
        found.key(found.root / r.gate): r for r in sorted(reports, key=depth)
    }.items():
        gate = found.root / report.gate
        old = found.entry(gate)
        if why := _why_not(report, gate, old):
            kept.append(f"baseline {baseline.shown}: {key} is left as it was: {why}")
            continue
        new = _entry(report, key)
        same = old is not None and old.gate == key and _same(old, new)
        counts["unchanged" if same else "rewritten" if old else "added"] += 1
        if old is not None and not same:
            entries.pop(old.gate, None)
        if not same:
            entries[key] = new
    if counts["added"] or counts["rewritten"]:
        written = sorted(entries.values(), key=lambda entry: entry.gate)
        write_file(baseline.path, render_all(Collected(reports=tuple(written))))
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return (*([f"baseline {baseline.shown}: {told}"] if told else []), *kept)


def _why_not(report: Report, gate: Path, old: Report | None) -> str | None:
    if not gate.is_file():
        return "a gate without a file of its own has no entry"
    if report.status == "error":
        return "the gate could not be computed"
    if not depth(report):
        return "this run computed nothing to compare with"
    if old is not None and depth(old) > depth(report):
        return "this run did not go as deep (remove the entry to have it written anew)"
    return None


def _entry(report: Report, key: str) -> Report:
    """What there is to compare, and none of what changes from run to run or with the budget."""
    settings = report.settings
    kept: dict[str, Any] = {
        section: {name: settings[section][name] for name in names}
        for section, names in COMPARED.items()
        if section in settings  # a finished merge was made by no settings of the gate
    }
    kept |= {name: settings[name] for name in (*WHOLE, *BY_EXPERT) if name in settings}
    if (limit := settings["probes"].get("answer_limit")) is not None:
        kept["probes"]["answer_limit"] = limit
    return Report(
        status="inconclusive",  # nothing is judged here
        gate=key,
        created=report.created,
        versions=report.versions,
        device=report.device,
        seconds={},
        settings=kept,
        base=report.base,
        experts=report.experts,
        pairs=tuple(pair.model_copy(update={"layers": {}}) for pair in report.pairs),
        merges=tuple(map(_without_cases, report.merges)),
        predictions=report.predictions,
    )


def _without_cases(merge: MergeRecord) -> MergeRecord:
    """The numbers of a merge: text of examples is nothing to compare, and nothing to commit."""
    experts = tuple(expert.model_copy(update={"changed": ()}) for expert in merge.experts)
    return merge.model_copy(update={"experts": experts})


def _same(one: Any, other: Any) -> bool:
    """Whether two entries say the same except for round-off."""
    if isinstance(one, Report) and isinstance(other, Report):
        one, other = (r.model_dump(mode="json", exclude=_PASSING) for r in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _same(one[key], other[key]) for key in one if key != "digest"
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return not moved(one, other)
    return bool(one == other)
