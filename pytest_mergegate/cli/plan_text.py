"""What ``mergegate plan`` says: the record that ``--json`` writes, and groups gated for real."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_mergegate.cli.output import aligned
from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.options import Options
from pytest_mergegate.planning.forecasts import (
    GroupForecast,
    PlannedGroupRecord,
    PlannedMergeRecord,
    PlanRecord,
    ReplacementRecord,
)
from pytest_mergegate.planning.weights import proposed_gate
from pytest_mergegate.report.formats.reading import plural, some
from pytest_mergegate.report.gating import run_gate
from pytest_mergegate.report.types import MergedExpertRecord, Report

_HEAD = ("method", "weights", "forecast", "worst off", "disagreement", "loss %", "distortion", "by")
_MOST_POINTS = 12


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One group, and the report of its gate: what it came to beside what was forecast."""

    group: GroupForecast
    report: Report

    @property
    def lines(self) -> Iterator[str]:
        """The verdict, then forecast and merge of every expert."""
        best = self.group.best
        under = f" under {clean(best.method.label)}" if best is not None else ""
        yield f"verified {_names(self.group.names)}: {self.report.status}{under}"
        for finding in self.report.findings:
            if finding.severity == "error":
                yield f"  {finding.code}: {clean(finding.message)}"
        for found, forecast in self._merged:
            loss = f", loss {number_text(0.0 - found.loss)} %" if found.loss is not None else ""
            yield (
                f"  {clean(found.name)}: disagreement {number_text(found.disagreement)} (at most "
                f"{number_text(found.disagreement_upper)}), forecast "
                f"{'none' if forecast is None else number_text(forecast)}{loss}"
            )

    @property
    def plain(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "experts": list(self.group.names),
            "status": self.report.status,
            "merged": [
                {
                    "expert": found.name,
                    "forecast_disagreement": forecast,
                    "disagreement": found.disagreement,
                    "disagreement_upper": found.disagreement_upper,
                    "loss": found.loss,
                }
                for found, forecast in self._merged
            ],
        }

    @property
    def _merged(self) -> list[tuple[MergedExpertRecord, float | None]]:
        """What the best method came to for every expert, and the disagreement forecast of it."""
        if (best := self.group.best) is None:
            return []
        forecast = {expert.name: expert.disagreement.number for expert in best.experts}
        merges = (m.experts for m in self.report.merges if m.method == best.method.label)
        return [(expert, forecast.get(expert.name)) for expert in next(merges, ())]


def verify(gate: Gate, groups: Iterable[GroupForecast], options: Options) -> tuple[Verified, ...]:
    """Run the gate of every group of two or more that is forecast to pass."""
    return tuple(
        Verified(group=group, report=run_gate(proposed_gate(gate, group), options))
        for group in groups
        if len(group.names) > 1 and group.status == "pass"
    )


def plan_lines(plan: PlanRecord, name: str, experts: int, *, verbose: bool) -> Iterator[str]:
    """The whole plan."""
    yield _headline(plan, clean(name), experts)
    yield from _curve(plan)
    for number, group in enumerate(plan.groups, start=1):
        yield ""
        yield from _group(number, group, verbose=verbose)
    if plan.drop:
        few = plan.drop_at_least is None or plan.drop_at_least >= len(plan.drop)
        gap = "" if few else f" (at least {plan.drop_at_least} must go)"
        rest = f"the other {experts - len(plan.drop)} are forecast to pass as one merge{gap}"
        yield from ("", f"or leave out {_names(plan.drop)}: {rest}")
    for replacement in plan.replacements:
        yield ""
        yield from _replacement(replacement)


def _headline(plan: PlanRecord, name: str, experts: int) -> str:
    """One line: how many merges do, if any."""
    merged = [group for group in plan.groups if len(group.experts) > 1]
    if not merged:
        return f"NO PLAN {name}: no two of {plural(experts, 'expert')} are forecast to pass"
    if len(plan.groups) == 1:
        return f"PLAN {name}: all {experts} experts are forecast to pass as one merge"
    alone = len(plan.groups) - len(merged)
    parts = [plural(len(merged), "merge"), *([f"{alone} left as they are"] if alone else [])]
    fewer = plan.at_least is None or plan.at_least < len(plan.groups)
    gap = f"at least {plan.at_least or 1} are needed" if fewer else "no fewer do"
    models = f"{len(plan.groups)} models for {experts} experts"
    return f"PLAN {name}: {models} ({', '.join(parts)}; {gap})"


def _curve(plan: PlanRecord) -> Iterator[str]:
    """How far the worst-off expert's states must move, by number of models."""
    yield "models  distortion  merged with each other (by hidden states, whatever the budget)"
    for point in plan.curve[:_MOST_POINTS]:
        groups = " | ".join(some(group) for group in point.groups if len(group) > 1) or "-"
        gap = point.at_least is not None and point.at_least < point.distortion
        floor = f"  (at least {number_text(point.at_least or 0.0)})" if gap else ""
        yield f"{point.models:6d}  {number_text(point.distortion):>10}  {groups}{floor}"
    if len(plan.curve) > _MOST_POINTS:
        yield f"        and so on, to {plan.curve[-1].models} models"


def _group(number: int, group: PlannedGroupRecord, *, verbose: bool) -> Iterator[str]:
    names = _names(group.experts)
    if len(group.experts) == 1:
        yield f"model {number}: {names}, as it is"
        return
    yield f"model {number}: {names}"
    yield from (f"  against: {clean(reason)}" for reason in group.against)
    if not group.merges:
        yield f"  {group.status}: the budget is not about merges, and no method was tried"
        return
    best = group.merges[0]
    shown = [merge for merge in group.merges if verbose or merge.method == best.method]
    yield from (f"  {line}" for line in aligned([_HEAD, *map(_row, shown)]))
    if len(set(best.weights.values())) > 1:
        listed = ", ".join(f"{clean(n)} {number_text(w)}" for n, w in best.weights.items())
        yield f"  weights: {listed}"


def _row(merge: PlannedMergeRecord) -> tuple[str, ...]:
    return (
        clean(merge.method),
        merge.shares,
        merge.status,
        "-" if merge.expert is None else clean(merge.expert),
        _number(merge.disagreement),
        _number(merge.loss),
        _number(merge.distortion),
        merge.basis,
    )


def _replacement(replacement: ReplacementRecord) -> Iterator[str]:
    by = "the forecast" if replacement.order == "forecast" else "MDS"
    yield f"in place of {clean(replacement.replaced)}, the worst by {by}; best candidates first:"
    rows: list[tuple[str, ...]] = [("candidate", "its MDS", *_HEAD[:-2])]
    for stand in replacement.candidates:
        merge = _row(stand.pool.merges[0])[:-2] if stand.pool.merges else ("-", "-", "-", "-")
        own = (clean(stand.name), _number(stand.mds))
        rows.append((*own, *merge[:2], stand.pool.status, *merge[3:]))
    yield from (f"  {line}" for line in aligned(rows))


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(clean, names))


def _number(number: float | None) -> str:
    return "-" if number is None else number_text(number)
