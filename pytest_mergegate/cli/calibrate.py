"""``mergegate calibrate``: what the merges in a registry say of those to come, in 80 columns."""

import argparse
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pytest_mergegate.cli import Parser
from pytest_mergegate.cli.output import aligned, encodable, is_saved
from pytest_mergegate.common.errors import GateError, UsageError
from pytest_mergegate.common.plain_text import clean, complain, printable
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.option_table import REGISTRY
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.history.calibration.fit import Calibration
from pytest_mergegate.history.calibration.observations import (
    COLLAPSE,
    LOWER_IS_RISKIER,
    observations,
)
from pytest_mergegate.history.calibration.performance import (
    DEFAULT_LIMIT,
    EstimatedShare,
)
from pytest_mergegate.history.calibration.summary import Missing, Summary, summarise
from pytest_mergegate.history.registry.lines import SCORES, RegistryLine
from pytest_mergegate.history.registry.reading import Registry, read_registry, told
from pytest_mergegate.report.formats.reading import plural

_WIDTH: Final = 80
_LEFT_OUT: Final = {"merges": "merge", "pools": "pool", "beds": "bed"}
_POINTS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the recorded scores that lie below those for which losses are shown."""
Rows = list[tuple[str, ...]]


def add_to(calibrate: Parser) -> None:
    """Declare the arguments."""
    text = f"what gates have appended to (default: {REGISTRY})"
    calibrate.add_argument("registries", nargs="*", type=Path, metavar="REGISTRY", help=text)
    text = "say how well each score would have done on these merges"
    calibrate.add_argument("--report", action="store_true", help=text)
    text = "what losses are predicted from"
    calibrate.add_argument("--score", default="disagreement", metavar="NAME", help=text)
    text = "of merges whose answers were compared so (default: exact)"
    calibrate.add_argument("--compare", default=EXACT, metavar="NAME", help=text)
    text = "level of the intervals"
    calibrate.add_argument("--confidence", type=float, default=0.9, metavar="F", help=text)
    text = "the share of collapses that a threshold may miss"
    calibrate.add_argument("--miss-rate", type=float, default=0.1, metavar="F", help=text)
    calibrate.add_argument("--json", type=Path, metavar="PATH", help="write all of it there")


def run(chosen: argparse.Namespace) -> int:
    """Say it; returns the exit code. Raises UsageError, GateError."""

    _check(chosen)
    asked = {name: getattr(chosen, name) for name in ("score", "confidence", "miss_rate")}
    every = observations(_read(chosen.registries))
    own = [one for one in every if one.compared_by == chosen.compare]
    others = Counter(one.compared_by for one in every if one.compared_by != chosen.compare)
    if not own:
        compared = f" of answers that were compared by {clean(chosen.compare)}" if others else ""
        said = f"there is no measured loss to calibrate on{compared}"
        complain([said, *_compared_otherwise(others)])
        return Exit.NOTHING_GATED
    found = summarise(own, tuple(SCORES), with_performance=chosen.report, **asked)
    sys.stdout.write(encodable(_text(found, others, bold=sys.stdout.isatty(), **asked)))
    if chosen.json is not None:
        text = json.dumps(found.plain(), indent=2, ensure_ascii=False, allow_nan=False)
        if not is_saved(chosen.json, f"{text}\n"):
            return Exit.NOT_PASSED
    return Exit.NOTHING_GATED if found.says_nothing else Exit.PASSED


def _check(chosen: argparse.Namespace) -> None:
    for option in ("confidence", "miss_rate"):
        value = getattr(chosen, option)
        if not 0 < value < 1:
            name = option.replace("_", "-")
            raise UsageError(f"--{name} must lie between 0 and 1, not {value!r}")
    if chosen.score not in SCORES:
        raise UsageError(f"--score must be one of {', '.join(SCORES)}, not {chosen.score!r}")
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
    registry = read_registry(path)
    if required and not registry.exists:
        fix = "gates that measure a loss write it; or name another"
        raise GateError("there is no such registry", where=path.as_posix(), fix=fix)
    complain(told(registry))
    return registry


def _compared_otherwise(others: Mapping[str, int]) -> Iterator[str]:
    """What is left out, and how to have it told."""
    for name, count in sorted(others.items()):
        losses = f"{count} loss{'es' * (count != 1)}"
        yield f"{losses} of answers compared by {clean(name)}: --compare {clean(name)}"


def _text(
    found: Summary,
    others: Mapping[str, int],
    score: str,
    confidence: float,
    miss_rate: float,
    *,
    bold: bool = False,
) -> str:
    """All of it; ``bold`` where the terminal can show headings so."""
    missed = f"{100 * miss_rate:.3g}%"
    parts: dict[str, Iterator[str]] = {
        f"Losses predicted from {score}": _predicted(found, confidence),
        f"Thresholds that miss at most {missed} of collapses": _thresholds(found),
    }
    if found.performances:
        performed = _performances(found, missed)
        parts["How well each score would have done on these merges"] = performed
    losses = len(found.observations)
    lines = [
        f"{plural(found.count('merge'), 'merge')} of {plural(found.count('pool'), 'pool')}, "
        f"{losses} loss{'es' * (losses != 1)} of {plural(found.count('expert'), 'expert')}, "
        f"{plural(found.collapses, 'collapse')} (below {COLLAPSE:.0f}%)"
    ]
    if others:
        lines += [f"left out: {line}" for line in _compared_otherwise(others)]
    for title, part in parts.items():
        lines += ["", f"\x1b[1m{title}\x1b[0m" if bold else title, *part]
    return "\n".join(lines) + "\n"


def _said(text: str) -> list[str]:
    return textwrap.wrap(printable(text), _WIDTH, break_on_hyphens=False)


def _predicted(found: Summary, confidence: float) -> Iterator[str]:
    fitted = found.calibration
    if isinstance(fitted, Missing):
        yield from _said(fitted.message)
        return
    recorded = np.sort([one.scores.get(fitted.score, np.nan) for one in found.observations])
    finite = recorded[np.isfinite(recorded)]
    yield f"of experts and methods that are new, with intervals at {100 * confidence:.3g}%"
    rows: Rows = [("at", "loss %", "interval")]
    for value in dict.fromkeys(np.quantile(finite, _POINTS, method="nearest").tolist()):
        told = fitted.predict("", "", value)
        interval = f"[{told.low:.1f}, {told.high:.1f}]"
        rows.append((f"{fitted.score} {value:.3g}", f"{told.loss:.1f}", interval))
    yield from aligned(rows, numbers=True, label=40)
    yield _steepness(fitted)
    rows = [("moves the loss, at a middling score, by", "%"), *_effects(fitted, found)]
    yield from aligned(rows, numbers=True, label=60)
    held = found.validation
    if isinstance(held, Missing):
        yield from _said(f"whether the intervals hold cannot be told: {held.message}")
        return
    left_out = _LEFT_OUT[held.groups]
    yield (
        f"Left out {left_out} by {left_out}, {held.coverage:.0%} of {held.observations} losses are "
        "in their intervals, which"
    )
    yield (
        f"are {held.width:.1f} points wide on average; off by {held.error:.1f} points, the mean "
        f"loss by {held.constant_error:.1f}."
    )


def _steepness(fitted: Calibration) -> str:
    link = fitted.model.link
    rise = link.at[-1] - link.at[0]
    if rise <= 0:
        return "every recorded score is the same, so none says more than another"
    per = (link.values[-1] - link.values[0]) / rise
    turned = -per if fitted.score in LOWER_IS_RISKIER else per
    return f"on average {turned + 0.0:.1f} points for 1 more of {fitted.score}"


def _effects(fitted: Calibration, found: Summary) -> Iterator[tuple[str, str]]:
    """Of methods and experts, in points at the mean scale of the residuals, by size.

    Experts are known by their fingerprints; two of one name are told apart.
    """
    names = {one.expert: one.name for one in found.observations}
    times = Counter(names.values())
    for known, name in names.items():
        if times[name] > 1:
            names[known] = f"{name} ({known.removeprefix('sha256:')[:8]})"
    scale = float(np.mean(fitted.model.scale.values))
    effects = fitted.model.effects
    for kind, group in (("method", effects.methods), ("expert", effects.experts)):
        called = names if kind == "expert" else {}
        for name, effect in sorted(group.known.items(), key=lambda pair: (pair[1].mean, pair[0])):
            points = f"{round(effect.mean * scale, 1) + 0.0:+.1f}"
            yield clean(f"{kind} {called.get(name, name)}"), points


def _thresholds(found: Summary) -> Iterator[str]:
    rows: Rows = [("score", "block from", "by collapses of pools")]
    for name, threshold in found.thresholds.items():
        if not isinstance(threshold, Missing):
            sign = "≤" if name in LOWER_IS_RISKIER else "≥"
            counts = f"{threshold.collapses} of {threshold.pools}"
            rows.append((name, f"{sign} {threshold.value:.4g}", counts))
    if len(rows) > 1:
        yield from aligned(rows, numbers=True, label=40)
    whys = {n: t.message for n, t in found.thresholds.items() if isinstance(t, Missing)}
    yield from _lacking(whys)


def _performances(found: Summary, missed: str) -> Iterator[str]:
    known = {n: p for n, p in found.performances.items() if not isinstance(p, Missing)}
    if known:
        rates = [p.base_rate for p in known.values()]
        ends = dict.fromkeys((f"{min(rates):.0%}", f"{max(rates):.0%}"))
        yield f"{' to '.join(ends)} collapsed, the AUPRC of a score that says nothing. Recall and"
        yield f"false alarms at a miss rate of {missed}, each threshold chosen without"
        yield "the pool that it judges; 95% intervals below, over pools."
        rows: Rows = [("", "", "", "", "", "false")]
        rows.append(("score", "n", "AUROC", "AUPRC", "recall", "alarms"))
        for name, of in known.items():
            alarms = (of.controlled.recall, of.controlled.false_alarms) if of.controlled else ()
            shares = (of.auroc, of.auprc, *(alarms or (None, None)))
            rows += _with_intervals((name, str(of.observations)), shares)
        yield from aligned(rows, numbers=True, label=27)
    limited = {name: p.limit for name, p in known.items() if p.limit}
    if limited:
        yield from ("", f"Over the default limit of {DEFAULT_LIMIT:g}")
        rows = [("", "", "false"), ("score", "recall", "alarms")]
        for name, limit in limited.items():
            rows += _with_intervals((name,), (limit.recall, limit.false_alarms))
        yield from aligned(rows, numbers=True, label=27)
    whys = {
        name: result.message if isinstance(result, Missing) else result.controlled_reason
        for name, result in found.performances.items()
    }
    yield from _lacking(whys)


def _lacking(whys: Mapping[str, str | None]) -> Iterator[str]:
    """Why some scores have no result, each reason once."""
    for why in filter(None, dict.fromkeys(whys.values())):
        names = ", ".join(name for name, own in whys.items() if own == why)
        yield from _said(f"{names}: {why}")


def _with_intervals(labels: tuple[str, ...], shares: Sequence[EstimatedShare | None]) -> Rows:
    """A row of values, and one of their intervals where there are any."""
    values = [f"{share.value:.3f}" if share else "-" for share in shares]
    ends = [share.interval if share else None for share in shares]
    below = [f"{end[0]:.2f}–{end[1]:.2f}" if end else "" for end in ends]
    rows = [(*labels, *values)]
    return [*rows, (*("" for _ in labels), *below)] if any(below) else rows
