"""``mergegate show``: the cases behind the scores of one expert, from a JSON report."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_mergegate.cli import Parser
from pytest_mergegate.cli.output import methods_among, reports_in
from pytest_mergegate.common.errors import UsageError, did_you_mean
from pytest_mergegate.common.plain_text import clean, complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.common.wording import number_text, under
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.report.formats.cases import compared_with, page_width, whole_lines
from pytest_mergegate.report.formats.reading import finding_text
from pytest_mergegate.report.merge_records import MergedExpertRecord, MergeRecord
from pytest_mergegate.report.types import Collected, Report


def add_to(show: Parser) -> None:
    """Declare the arguments."""
    told = "what --report json:REPORT.json wrote"
    show.add_argument("report", type=Path, metavar="REPORT.json", help=told)
    show.add_argument("expert", metavar="EXPERT", help="by its name in the gate file")
    told = "of this merge alone, by its method (repeatable; default: of all)"
    show.add_argument("--method", action="append", default=[], metavar="M", help=told)


def run(chosen: argparse.Namespace) -> int:
    """Print the cases; returns the exit code. Raises UsageError, GateError."""
    found = reports_in(chosen.report)
    reports = _with_expert(found, chosen.expert)
    labels = dict.fromkeys(merge.method for report in reports for merge in report.merges)
    asked = methods_among(chosen.method, tuple(labels)) if labels else ()
    said = 0
    for report in reports:
        merges = [merge for merge in report.merges if merge.method in asked]
        if why := _why_none(report, chosen.expert, merges):
            complain([f"{clean(found.name(report))}: {why}"])
            continue
        if len(reports) > 1:
            say([f"gate {clean(found.name(report))}"])
        for merge in merges:
            say(_lines(report, merge, chosen.expert))
        said += 1
    return Exit.PASSED if said else Exit.NOTHING_GATED


def _with_expert(found: Collected, expert: str) -> list[Report]:
    """The reports that know the expert. Raises UsageError."""
    if having := [report for report in found.reports if expert in report.expert_names]:
        return having
    known = dict.fromkeys(name for report in found.reports for name in report.expert_names)
    if known:
        fix = did_you_mean(expert, known, "its experts")
        raise UsageError(f"the report has no expert {expert!r}", fix=fix)
    errors = (f for r in found.reports for f in r.findings if f.severity == "error")
    told = next((f": {finding_text(finding)}" for finding in errors), "")
    raise UsageError(f"the report has no experts, as no gate was computed{told}")


def _why_none(report: Report, expert: str, merges: Sequence[MergeRecord]) -> str | None:
    """Why the report can show no case, and what to do."""
    if not merges:
        return (
            "no merge was compared with the expert, so nothing is known to have changed (fix: gate "
            "it with --stage merge, and a budget that is about merges, such as max_disagreement)"
        )
    certificate = report.settings.get("certificate", {})
    if "shown" not in certificate:
        return (
            "the report is a baseline, or of a version that kept no cases (fix: write a new one "
            "with mergegate check --report json:FILE)"
        )
    compared = [compared_with(merge, expert) for merge in merges]
    if certificate["shown"] == 0 and any(one and one.disagreement for one in compared):
        return (
            "answers changed, and the gate keeps all text out of reports (fix: set "
            "certificate.shown in the gate file to as many cases as are to be shown, and run it "
            "again; mergegate ask shows the answers to an input of your own)"
        )
    return None


def _lines(report: Report, merge: MergeRecord, expert: str) -> Iterator[str]:
    found = compared_with(merge, expert)
    if found is None:
        return
    judged = ", the judged merge" if merge.method == report.judged_method else ""
    yield f"{clean(expert)} {under(clean(merge.method))}{judged}: {_told(found)}"
    if found.changed:
        yield ""
        yield from whole_lines(found.changed, page_width())
    yield ""


def _told(found: MergedExpertRecord) -> str:
    """How many answers changed, and how many cases there are."""
    if not found.disagreement:
        return f"no answer changed, of {found.inputs} inputs"
    if not found.changed:
        return f"disagreement {number_text(found.disagreement)}, and no changed answer was decoded"
    rate, of = number_text(found.disagreement), f"{found.inputs} inputs"
    if found.compared_by != EXACT:
        of += f", the mean distance by {clean(found.compared_by)}"
    return f"disagreement {rate} on {of}; the {len(found.changed)} worst:"
