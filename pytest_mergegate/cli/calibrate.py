"""``mergegate calibrate``: what the merges in a registry say of those to come."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import GateError, UsageError
from pytest_mergegate.common.plain_text import complain
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.option_table import REGISTRY

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_mergegate.cli.parser import Commands
    from pytest_mergegate.history.registry.lines import RegistryLine
    from pytest_mergegate.history.registry.reading import Registry


def add_to(commands: Commands) -> None:
    """Declare the command."""
    calibrate = commands.add_parser(
        "calibrate",
        help="say what recorded merges foretell",
        description="Say what the merges in registries foretell: losses with intervals, and "
        "thresholds that control misses.",
    )
    calibrate.add_argument(
        "registries",
        nargs="*",
        type=Path,
        metavar="REGISTRY",
        help=f"what gates have appended to (default: {REGISTRY})",
    )
    calibrate.add_argument(
        "--report",
        action="store_true",
        help="say how well each score would have done on these merges",
    )
    calibrate.add_argument(
        "--score", default="disagreement", metavar="NAME", help="what losses are foretold from"
    )
    calibrate.add_argument(
        "--confidence", type=float, default=0.9, metavar="F", help="level of the intervals"
    )
    calibrate.add_argument(
        "--miss-rate",
        type=float,
        default=0.1,
        metavar="F",
        help="the share of collapses that a threshold may miss",
    )
    calibrate.add_argument("--json", type=Path, metavar="PATH", help="write all of it there")
    calibrate.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Say it; returns the exit code. Raises UsageError, GateError."""
    from pytest_mergegate.cli.calibrate_text import text_of
    from pytest_mergegate.cli.output import encodable, is_saved
    from pytest_mergegate.history.calibration.observations import observations
    from pytest_mergegate.history.calibration.summary import summarise
    from pytest_mergegate.history.registry.lines import SCORES

    _check(chosen, tuple(SCORES))
    asked = {name: getattr(chosen, name) for name in ("score", "confidence", "miss_rate")}
    lines = _read(chosen.registries)
    found = summarise(observations(lines), tuple(SCORES), with_performance=chosen.report, **asked)
    if not found.observations:
        complain(["there is no measured loss to calibrate on"])
        return Exit.NOTHING_GATED
    sys.stdout.write(encodable(text_of(found, bold=sys.stdout.isatty(), **asked)))
    if chosen.json is not None:
        text = json.dumps(found.plain(), indent=2, ensure_ascii=False, allow_nan=False)
        if not is_saved(chosen.json, f"{text}\n"):
            return Exit.NOT_PASSED
    return Exit.NOTHING_GATED if found.says_nothing else Exit.PASSED


def _check(chosen: argparse.Namespace, scores: Sequence[str]) -> None:
    for option in ("confidence", "miss_rate"):
        value = getattr(chosen, option)
        if not 0 < value < 1:
            name = option.replace("_", "-")
            raise UsageError(f"--{name} must lie between 0 and 1, not {value!r}")
    if chosen.score not in scores:
        raise UsageError(f"--score must be one of {', '.join(scores)}, not {chosen.score!r}")
    if chosen.json is not None and chosen.json.is_dir():
        raise UsageError(f"--json: {chosen.json} is a folder; name a file in it")


def _read(named: Sequence[Path]) -> list[RegistryLine]:
    """The lines of all registries, each once."""
    lines: dict[str, RegistryLine] = {}
    for path in named or (Path(REGISTRY),):
        lines |= {line.id: line for line in registry_at(path, required=bool(named)).lines}
    return list(lines.values())


def registry_at(path: Path, *, required: bool) -> Registry:
    """Read a registry, and tell what of it cannot be used. Raises GateError where it must be there
    and is not."""
    from pytest_mergegate.history.registry.reading import read_registry, told

    registry = read_registry(path)
    if required and not registry.exists:
        raise GateError(
            "there is no such registry",
            where=path.as_posix(),
            fix="gates that measure a loss write it; or name another",
        )
    complain(told(registry))
    return registry
