"""What the formats read out of a report, so that they all say the same."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from pytest_mergegate.common.addresses import SITE
from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import number_text, under
from pytest_mergegate.report.merge_records import MergeRecord
from pytest_mergegate.report.types import (
    ChangeRecord,
    DiagnosisRecord,
    FindingRecord,
    Report,
    VerdictRecord,
)
from pytest_mergegate.verdict.budgets import kind_of

DIAGNOSIS = "MG401"
"""The finding that repeats a diagnosis."""
STATUSES = ("fail", "inconclusive", "pass")
"""Of verdicts, the worst first."""
NO_VERDICT = "no budget was judged, and a gate without a verdict does not pass"
_NAMED = 8
"""Experts that a headline names; of more it tells how many."""


def finding_page(code: str) -> str:
    """The page of a finding's code."""
    return f"{SITE}/findings/{code}/"


def plural(count: int, what: str) -> str:
    """``1 expert``, ``2 experts``."""
    return f"{count} {what}{'s' * (count != 1)}"


def some(names: Iterable[str], most: int = _NAMED) -> str:
    """The names, or the first of them and how many more."""
    listed = [clean(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def status_of(report: Report, expert: str | None) -> str | None:
    """The worst verdict on ``expert``; None where there is none."""
    statuses = {v.status for v in report.verdicts if v.expert == expert}
    return next((status for status in STATUSES if status in statuses), None)


def limit_of(report: Report, budget: str) -> float | None:
    """What a budget allows; None where it is not judged, or its limit could not be found."""
    return next((v.limit for v in report.verdicts if v.budget == budget), None)


def open_verdicts(report: Report) -> list[VerdictRecord]:
    """The verdicts that are no pass, by expert in the gate's order."""
    order = {name: place for place, name in enumerate(report.expert_names)}
    found = [verdict for verdict in report.verdicts if verdict.status != "pass"]
    return sorted(found, key=lambda verdict: order.get(verdict.expert or "", len(order)))


class Concern(NamedTuple):
    """An expert that is not within budget (None for the pool), why, and what would help."""

    expert: str | None
    verdicts: list[VerdictRecord]
    diagnosis: DiagnosisRecord | None


def concerns(report: Report) -> list[Concern]:
    """One of every expert with a verdict that is no pass, in the gate's order."""
    diagnoses = {diagnosis.expert: diagnosis for diagnosis in report.diagnoses}
    found: dict[str | None, list[VerdictRecord]] = {}
    for verdict in open_verdicts(report):
        found.setdefault(verdict.expert, []).append(verdict)
    return [Concern(name, own, diagnoses.get(name or "")) for name, own in found.items()]


def used_up(verdict: VerdictRecord) -> float:
    """How much of its limit a value uses up; the value itself where the limit is not known, and
    less than anything where there is no value."""
    value = math.inf if verdict.value_infinite else verdict.value
    if value is None:
        return -math.inf
    return value if verdict.limit is None else kind_of(verdict.budget).used(value, verdict.limit)


def badness(verdict: VerdictRecord) -> tuple[int, float]:
    """The larger the worse: by status, then by how much of the limit is used up."""
    return -STATUSES.index(verdict.status), used_up(verdict)


def closest(report: Report) -> VerdictRecord | None:
    """The verdict whose value uses up most of its limit."""
    return max(report.verdicts, key=used_up, default=None)


def beyond(verdicts: Iterable[VerdictRecord]) -> str:
    """What is said of experts with such verdicts: nobody is over a limit that is to be reached."""
    over = any(v.status == "fail" and not kind_of(v.budget).at_least for v in verdicts)
    return "over budget" if over else "not within budget"


def headline(report: Report) -> str:
    """The outcome of a gate in one line, without its name and time."""
    where = f" {under(clean(report.judged_method))}" if report.judged_method else ""
    experts = plural(len(report.experts), "expert")
    still_open = open_verdicts(report)
    failing = dict.fromkeys(v.expert or "" for v in still_open if v.status == "fail")
    if report.status == "error":
        problems = sum(finding.severity == "error" for finding in report.findings)
        return f"{plural(problems, 'problem')}, nothing was judged"
    if failing:
        return f"{len(failing)} of {experts} {beyond(still_open)}{where}: {some(failing, 4)}"
    if still_open:
        more = f" (and {len(still_open) - 1} more)" if len(still_open) > 1 else ""
        return f"{clean(still_open[0].message)}{more}"
    if (nearest := closest(report)) is None:
        return NO_VERDICT
    if report.status != "pass":
        return f"the gate is {report.status}, whatever its verdicts say"
    return f"{experts} within budget{where}; closest: {clean(nearest.message)}"


def merge_of(report: Report) -> MergeRecord | None:
    """The merge that the verdicts speak of, else the first."""
    judged = (m for m in report.merges if m.method == report.judged_method)
    return next(judged, report.merges[0] if report.merges else None)


def worst_of(merge: MergeRecord) -> str:
    """The worst that a merge does to an expert."""
    largest = max((expert.disagreement for expert in merge.experts), default=None)
    worst = (
        "nothing was compared"
        if largest is None
        else f"largest disagreement {number_text(largest)}"
    )
    if merge.worst_loss is not None:
        worst += f", worst loss {number_text(-merge.worst_loss)} %"
    return worst


def told_findings(report: Report) -> list[FindingRecord]:
    """The findings, except for those that repeat a diagnosis."""
    said = {diagnosis.expert for diagnosis in report.diagnoses}
    return [f for f in report.findings if f.code != DIAGNOSIS or f.expert not in said]


def finding_text(finding: FindingRecord) -> str:
    """One finding on one line; what is no error is marked as what it is."""
    mark = "" if finding.severity == "error" else f"{finding.severity}: "
    about = f"{clean(finding.expert)}: " if finding.expert else ""
    fix = f" (fix: {clean(finding.fix)})" if finding.fix else ""
    return f"{mark}{finding.code} {about}{clean(finding.message)}{fix}"


class Quantity(NamedTuple):
    """A number that may move against the baseline."""

    name: str
    up: str = "worse"
    """What it means that it grew."""
    down: str = "better"
    sign: float = 1.0
    """A loss is positive for people."""
    unit: str = ""


QUANTITIES = {
    "mds": Quantity("MDS"),
    "hidden_similarity": Quantity("hidden similarity", "more alike", "less alike"),
    "distance": Quantity("distance", "farther apart", "closer"),
    "disagreement": Quantity("disagreement"),
    "loss": Quantity("loss", sign=-1.0, unit=" %"),
    "gain_kept": Quantity("gain kept", "better", "worse"),
}


def headed(method: str) -> str:
    """What a table of one merge is headed by."""
    said = under(method)
    return said[0].upper() + said[1:]


def change_text(change: ChangeRecord) -> str:
    """What moved, from where to where, and which way that is; without the experts."""
    name, up, down, sign, unit = QUANTITIES[change.quantity]
    ends = (change.before, change.after)
    before, after = (None if end is None else sign * end + 0.0 for end in ends)
    where = f" {under(clean(change.method))}" if change.method else ""
    if after is None:
        which = "no longer known"
    elif before is None:
        which = "not known before"
    else:
        which = "unmoved" if after == before else up if after > before else down
    moved = " → ".join(f"{'-' if n is None else number_text(n)}{unit}" for n in (before, after))
    return f"{name}{where}: {moved} ({which})"


_BASIS = {
    "exact": "each was run",
    "merged": "each was made and run",
    "surrogate": "by the nearest sums of task vectors",
    "probes": "tried on the probes",
    "states": "stored states, mixed",
}
_MOST_GROUPS = 4


def device(report: Report) -> str:
    """Where models ran, and in what they computed where that is not what their weights are in."""
    wider = report.settings.get("computing")
    told = wider.items() if isinstance(wider, dict) else ()  # a stranger's report may say anything
    return clean(", ".join([report.device, *(f"{own} computed in {how}" for own, how in told)]))


def tokens(report: Report) -> str | None:
    """How many tokens each stage ran the model on, and how many it reused; None for no model."""
    if not report.tokens:
        return None
    stages = ", ".join(f"{stage} {run.processed:,}" for stage, run in report.tokens.items())
    reused = sum(run.reused for run in report.tokens.values())
    return f"{stages}; {reused:,} reused"


def untried(report: Report) -> str | None:
    """Which methods were left out once one had passed; None for none."""
    if not report.untried:
        return None
    return f"{some(report.untried)}, since {report.judged_method} passes (--all-methods)"


def instead(report: Report) -> str | None:
    """The groups that the plan says would pass, and on what that rests; None where it has none of
    two or more experts, or where it is the pool as it was."""
    groups = report.plan.groups if report.plan is not None else ()
    merged = [group for group in groups if len(group.experts) > 1]
    if not merged or len(groups) < 2:
        return None
    alone = [group.experts[0] for group in groups if len(group.experts) == 1]
    parts = []
    for group in merged[:_MOST_GROUPS]:
        how = f" {under(clean(group.merges[0].method))}" if group.merges else ""
        parts.append(f"merge {some(group.experts)}{how}")
    if len(merged) > _MOST_GROUPS:
        parts.append(f"{len(merged) - _MOST_GROUPS} more merges")
    if alone:
        parts.append(f"{some(alone)} as {'it is' if len(alone) == 1 else 'they are'}")
    basis = {merge.basis for group in merged for merge in group.merges[:1]}
    rests = ", ".join(_BASIS[b] for b in sorted(basis)) or "hidden states"
    forecast = "" if basis == {"probes"} else "forecast: "
    return f"{len(groups)} models in place of one: {'; '.join(parts)} ({forecast}{rests})"
