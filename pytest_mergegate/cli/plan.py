"""``mergegate plan``: the merges of a pool that would pass."""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_mergegate.cli import Parser, options_of
from pytest_mergegate.cli.output import aligned
from pytest_mergegate.common.errors import GateError, UsageError
from pytest_mergegate.common.files.documents import in_document
from pytest_mergegate.common.files.writing import write_file
from pytest_mergegate.common.plain_text import clean, complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.gate.gatefile import Gate, load_gate, refuse_code
from pytest_mergegate.gate.option_table import OPTIONS, REGISTRY, check_place
from pytest_mergegate.gate.options import Options
from pytest_mergegate.planning.forecasts import (
    GroupForecast,
    PlannedGroupRecord,
    PlannedMergeRecord,
    PlanRecord,
    ReplacementRecord,
)
from pytest_mergegate.planning.plan import MOST_TRIALS, Plan, find_replacements, make_plan
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.report.build import now, versions
from pytest_mergegate.report.formats.reading import plural, some
from pytest_mergegate.report.formats.terminal import progress_bar
from pytest_mergegate.report.gating import run_gate
from pytest_mergegate.report.merge_records import MergedExpertRecord
from pytest_mergegate.report.types import Report
from pytest_mergegate.verdict.budgets import cap_options

SCHEMA = "pytest-mergegate/plan/1"
_HEAD = ("method", "weights", "forecast", "worst off", "disagreement", "loss %", "distortion", "by")
_MOST_POINTS = 12


def add_to(plan: Parser) -> None:
    """Declare the arguments."""
    plan.add_argument("gate", type=Path, metavar="GATE", help="a gate file")
    told = "experts that might take the place of the one that merges worst"
    named = "GLOB|NAME=PATH"
    plan.add_argument("--candidates", nargs="+", default=[], metavar=named, help=told)
    told = "write a gate file and a mergekit configuration for each group there"
    plan.add_argument("--write", type=Path, metavar="DIR", help=told)
    plan.add_argument("--force", action="store_true", help="overwrite files that are there")
    told = "gate each group for real, and compare; exits 1 where one fails"
    plan.add_argument("--verify", action="store_true", help=told)
    plan.add_argument("--json", type=Path, metavar="PATH", help="write the plan as JSON, too")
    told = "groups that may be tried (default: 200)"
    plan.add_argument("--most-trials", type=int, metavar="N", help=told)
    registry = f"recorded merges, for limits that are auto@RATE (default: {REGISTRY})"
    shared = ("device", "cache", "no-cache", "registry", "no-registry", "no-code")
    plan.add_options((*cap_options(), *(OPTIONS[name] for name in shared)), registry=registry)
    plan.add_argument("-v", "--verbose", action="store_true", help="show every merge forecast")


def run(chosen: argparse.Namespace) -> int:
    """Make the plan; returns the exit code. Raises UsageError, GateError."""
    # with torch, for which neither help nor a bad option waits
    from pytest_mergegate.planning.files import plan_files, write_files

    _check_options(chosen)
    options = options_of(chosen)
    gate = load_gate(chosen.gate)
    gate = gate.with_budget(gate.spec.effective_budget.capped(options.caps))
    if options.no_code:
        refuse_code(gate)
    with progress_bar() as tell:
        pool, plan, record = _planned(gate, chosen, replace(options, progress=tell))
    name = chosen.gate.as_posix()
    say(plan_lines(record, name, len(gate.spec.experts), verbose=chosen.verbose))
    if plan.ran_out:
        say([f"{plan.most} groups were tried, and no more: --most-trials N tries more"])
    if chosen.write is not None:
        passing = [group for group in plan.groups if group.status == "pass"]
        texts, missing = plan_files(gate, pool, passing, chosen.write)
        write_files(texts, force=chosen.force)
        say(f"wrote {path}" for path in texts)
        complain(f"not written: {why}" for why in missing)
    verified: tuple[Verified, ...] = ()
    if chosen.verify:
        with progress_bar() as tell:
            verified = verify(gate, plan.groups, replace(options, progress=tell))
        say(line for found in verified for line in found.lines)
    if chosen.json is not None:
        data: dict[str, Any] = {
            "schema": SCHEMA,
            "gate": str(gate.path or gate.name),
            "created": now(),
            "versions": versions(),
            "plan": record.model_dump(mode="json"),
            "verified": [found.plain for found in verified],
        }
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        write_file(chosen.json, f"{text}\n")
    if any(found.report.status == "error" for found in verified):
        return Exit.UNREADABLE
    sound = plan.found and all(found.report.status == "pass" for found in verified)
    return Exit.PASSED if sound else Exit.NOT_PASSED


def _check_options(chosen: argparse.Namespace) -> None:
    if not in_document(chosen.gate)[0].is_file():
        raise UsageError(f"plan: there is no gate file {chosen.gate}")
    for option in ("write", "json"):
        if (place := getattr(chosen, option)) is not None:
            check_place(place, f"--{option}")
    if chosen.most_trials is not None and chosen.most_trials < 1:
        raise UsageError(f"--most-trials must be at least 1, not {chosen.most_trials}")
    if chosen.force and chosen.write is None:
        raise UsageError("--force is for --write")
    if chosen.write is not None and chosen.write.exists() and not chosen.write.is_dir():
        raise UsageError(f"--write: {chosen.write} is no folder")
    if chosen.json is not None and not chosen.json.absolute().parent.is_dir():
        raise UsageError(f"--json: there is no folder {chosen.json.parent}")


def _planned(
    gate: Gate, chosen: argparse.Namespace, options: Options
) -> tuple[Pool, Plan, PlanRecord]:
    from pytest_mergegate.planning.forecaster import Forecaster
    from pytest_mergegate.planning.opened_pool import open_pool, with_candidates

    wider, candidates = gate, tuple[str, ...]()
    if chosen.candidates:
        try:
            wider, candidates = with_candidates(gate, chosen.candidates)
        except GateError as error:
            raise UsageError(str(error)) from None
    context, results = open_pool(wider, options)
    forecaster = Forecaster(context, results)
    plan = make_plan(forecaster, tuple(gate.spec.experts), chosen.most_trials or MOST_TRIALS)
    found = find_replacements(forecaster, plan.whole, candidates) if candidates else ()
    return context.pool, plan, plan.record(found)


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
    from pytest_mergegate.planning.weights import proposed_gate

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
