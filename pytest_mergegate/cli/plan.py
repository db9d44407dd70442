"""``mergegate plan``: the merges of a pool that would pass."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_mergegate.cli.parser import Parser, options_of
from pytest_mergegate.common.errors import GateError, UsageError
from pytest_mergegate.common.files.writing import write_file
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.gatefile import Gate, load_gate, refuse_code
from pytest_mergegate.gate.option_table import OPTIONS, REGISTRY, check_place
from pytest_mergegate.gate.options import Options
from pytest_mergegate.planning.forecasts import PlanRecord
from pytest_mergegate.planning.plan import MOST_TRIALS, Plan, find_replacements, make_plan
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.report.build import now, versions
from pytest_mergegate.report.formats.terminal import progress_bar

SCHEMA = "pytest-mergegate/plan/1"


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
    shared = ("device", "cache", "no-cache", "registry", "no-code")
    plan.add_options((OPTIONS[name] for name in shared), registry=registry)
    plan.add_argument("-v", "--verbose", action="store_true", help="show every merge forecast")


def run(chosen: argparse.Namespace) -> int:
    """Make the plan; returns the exit code. Raises UsageError, GateError."""
    # with torch, for which neither help nor a bad option waits
    from pytest_mergegate.cli.plan_text import Verified, plan_lines, verify
    from pytest_mergegate.planning.files import plan_files, write_files

    _check_options(chosen)
    options = options_of(chosen)
    gate = load_gate(chosen.gate)
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
    if not chosen.gate.is_file():
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
