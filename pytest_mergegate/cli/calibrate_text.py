"""What ``mergegate calibrate`` says, in 80 columns."""

from __future__ import annotations

import sys
from collections import Counter
from io import StringIO
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pytest_mergegate.common.plain_text import clean, printable
from pytest_mergegate.history.calibration.observations import COLLAPSE, LOWER_IS_RISKIER
from pytest_mergegate.history.calibration.performance import DEFAULT_LIMIT
from pytest_mergegate.history.calibration.summary import Missing
from pytest_mergegate.report.formats.reading import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_mergegate.history.calibration.effects import Effects
    from pytest_mergegate.history.calibration.fit import Calibration
    from pytest_mergegate.history.calibration.performance import (
        Alarms,
        Estimate,
        Performance,
        Threshold,
    )
    from pytest_mergegate.history.calibration.summary import Summary

WIDTH: Final = 80
_LEFT_OUT: Final = {"merges": "merge", "pools": "pool", "beds": "bed"}
_POINTS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the recorded scores that lie below those for which losses are shown."""


def text_of(found: Summary, score: str, confidence: float, miss_rate: float) -> str:
    """All of it."""
    page = _Page()
    page.say(
        f"{plural(found.count('merge'), 'merge')} of {plural(found.count('pool'), 'pool')}, "
        f"{_many(len(found.observations), 'loss', 'losses')} of "
        f"{plural(found.count('expert'), 'expert')}, {plural(found.collapses, 'collapse')} "
        f"(below {COLLAPSE:.0f}%)"
    )
    page.say("", f"Losses foretold from {score}", bold=True)
    if isinstance(found.calibration, Missing):
        page.say(found.calibration.message)
    else:
        _foretold(page, found, found.calibration, confidence)
    page.say("", f"Thresholds that miss at most {100 * miss_rate:.3g}% of collapses", bold=True)
    _thresholds(page, found)
    if found.performances:
        page.say("", "How well each score would have done on these merges", bold=True)
        _performances(page, found, miss_rate)
    return page.text


class _Page:
    def __init__(self) -> None:
        color = sys.stdout.isatty()
        self._console = Console(
            file=StringIO(),
            width=WIDTH,
            force_terminal=color,
            no_color=not color,
            color_system="standard" if color else None,
            highlight=False,
            emoji=False,
            markup=False,
        )

    def say(self, *lines: str, bold: bool = False) -> None:
        for line in lines:
            self._console.print(Text(printable(line), style="bold" if bold else ""))

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]], label: int) -> None:
        """The first column holds names, which are cut to ``label`` columns; numbers never are."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
        table.add_column(heads[0], max_width=label, no_wrap=True, overflow="ellipsis")
        for head in heads[1:]:
            table.add_column(head, justify="right", no_wrap=True, vertical="bottom")
        for row in rows:
            table.add_row(Text(clean(row[0])), *row[1:])
        self._console.print(table)

    @property
    def text(self) -> str:
        written = self._console.file
        assert isinstance(written, StringIO)
        text = "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        return text.encode(encoding, "replace").decode(encoding)


def _foretold(page: _Page, found: Summary, fitted: Calibration, confidence: float) -> None:
    recorded = np.sort([one.scores.get(fitted.score, np.nan) for one in found.observations])
    finite = recorded[np.isfinite(recorded)]
    page.say(f"of experts and methods that are new, with intervals at {100 * confidence:.3g}%")
    rows = []
    for value in dict.fromkeys(np.quantile(finite, _POINTS, method="nearest").tolist()):
        told = fitted.predict("", "", value)
        interval = f"[{told.low:.1f}, {told.high:.1f}]"
        rows.append((f"{fitted.score} {value:.3g}", f"{told.loss:.1f}", interval))
    page.table(("at", "loss %", "interval"), rows, 40)
    page.say(_steepness(fitted))
    names = _names(found)
    methods, experts = fitted.model.effects.methods, fitted.model.effects.experts
    effects = [*_effects(fitted, methods, {}, "method")]
    effects += _effects(fitted, experts, names, "expert")
    page.table(("moves the loss, at a middling score, by", "%"), effects, 60)
    held = found.validation
    if isinstance(held, Missing):
        page.say(f"whether the intervals hold cannot be told: {held.message}")
        return
    page.say(
        f"Left out {_LEFT_OUT[held.groups]} by {_LEFT_OUT[held.groups]}, {held.coverage:.0%} of "
        f"{held.observations} losses are in their intervals, which",
        f"are {held.width:.1f} points wide on average; off by {held.error:.1f} points, the mean "
        f"loss by {held.constant_error:.1f}.",
    )


def _names(found: Summary) -> dict[str, str]:
    """Of the experts by their fingerprints; two of one name are told apart."""
    names = {one.expert: one.name for one in found.observations}
    times = Counter(names.values())
    short = {print_: print_.removeprefix("sha256:")[:8] for print_ in names}
    return {p: f"{n} ({short[p]})" if times[n] > 1 else n for p, n in names.items()}


def _steepness(fitted: Calibration) -> str:
    link = fitted.model.link
    rise = link.at[-1] - link.at[0]
    if rise <= 0:
        return "every recorded score is the same, so none says more than another"
    per = (link.values[-1] - link.values[0]) / rise
    turned = -per if fitted.score in LOWER_IS_RISKIER else per
    return f"on average {turned + 0.0:.1f} points for 1 more of {fitted.score}"


def _effects(
    fitted: Calibration, effects: Effects, names: dict[str, str], kind: str
) -> list[tuple[str, str]]:
    """In points at the mean scale of the residuals, by size."""
    scale = float(np.mean(fitted.model.scale.values))
    known = sorted(effects.known.items(), key=lambda pair: (pair[1].mean, pair[0]))
    return [
        (f"{kind} {names.get(name, name)}", f"{round(effect.mean * scale, 1) + 0.0:+.1f}")
        for name, effect in known
    ]


def _thresholds(page: _Page, found: Summary) -> None:
    rows: list[tuple[str, ...]] = []
    lacking: dict[str, list[str]] = {}
    for name, threshold in found.thresholds.items():
        if isinstance(threshold, Missing):
            lacking.setdefault(threshold.message, []).append(name)
        else:
            counts = f"{threshold.collapses} of {threshold.pools}"
            rows.append((name, _blocks(name, threshold), counts))
    if rows:
        page.table(("score", "block from", "by collapses of pools"), rows, 40)
    for message, names in lacking.items():
        page.say(f"{', '.join(names)}: {message}")


def _blocks(name: str, threshold: Threshold) -> str:
    sign = "≤" if name in LOWER_IS_RISKIER else "≥"
    return f"{sign} {threshold.value:.4g}"


def _performances(page: _Page, found: Summary, miss_rate: float) -> None:
    known = {n: p for n, p in found.performances.items() if not isinstance(p, Missing)}
    if known:
        page.say(
            f"{_base_rates(known)} collapsed, the AUPRC of a score that says nothing. Recall and",
            f"false alarms at a miss rate of {100 * miss_rate:.3g}%, each threshold chosen without",
            "the pool that it judges; 95% intervals below, over pools.",
        )
        heads = ("score", "n", "AUROC", "AUPRC", "recall", "false\nalarms")
        page.table(heads, [row for n, p in known.items() for row in _rows(n, p)], 27)
    limited = [row for n, p in known.items() if p.limit for row in _limit_rows(n, p.limit)]
    if limited:
        page.say("", f"Over the default limit of {DEFAULT_LIMIT:g}")
        page.table(("score", "recall", "false\nalarms"), limited, 27)
    for message, names in _reasons(found).items():
        page.say(f"{', '.join(names)}: {message}")


def _base_rates(known: dict[str, Performance]) -> str:
    rates = [p.base_rate for p in known.values()]
    low, high = f"{min(rates):.0%}", f"{max(rates):.0%}"
    return low if low == high else f"{low} to {high}"


def _reasons(found: Summary) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, result in found.performances.items():
        why = result.message if isinstance(result, Missing) else result.controlled_reason
        if why:
            reasons.setdefault(why, []).append(name)
    return reasons


def _rows(name: str, of: Performance) -> list[tuple[str, ...]]:
    shares = (of.auroc, of.auprc, *_both(of.controlled))
    return _with_intervals((name, str(of.observations)), shares)


def _limit_rows(name: str, alarms: Alarms) -> list[tuple[str, ...]]:
    return _with_intervals((name,), _both(alarms))


def _with_intervals(
    labels: tuple[str, ...], shares: Sequence[Estimate | None]
) -> list[tuple[str, ...]]:
    """A row of values, and one of their intervals where there are any."""
    below = [_interval(share) for share in shares]
    rows = [(*labels, *map(_value, shares))]
    return [*rows, (*("" for _ in labels), *below)] if any(below) else rows


def _both(alarms: Alarms | None) -> tuple[Estimate | None, Estimate | None]:
    return (alarms.recall, alarms.false_alarms) if alarms else (None, None)


def _value(share: Estimate | None) -> str:
    return f"{share.value:.3f}" if share else "-"


def _interval(share: Estimate | None) -> str:
    if share is None or share.interval is None:
        return ""
    return f"{share.interval[0]:.2f}–{share.interval[1]:.2f}"


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
