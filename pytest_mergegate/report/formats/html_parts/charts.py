"""Plots as data, which the page's script draws: what merging does, and what more models keep."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.records import value_of
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html_parts.tables import missing
from pytest_mergegate.report.formats.numbers import forecasts_of, loss_of, span
from pytest_mergegate.report.formats.reading import limit_of, plural
from pytest_mergegate.verdict.budgets import kind_of, limit_on

if TYPE_CHECKING:
    from pytest_mergegate.report.types import Report


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One figure of a plot that can show several."""

    key: str
    label: str
    data: dict[str, Any]
    """What the script draws from."""
    extremes: tuple[float, float] = (0.0, 0.0)
    """The smallest and the largest number of a grid."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A plot with what it can be switched between."""

    key: str
    variants: tuple[Variant, ...]
    toggle: str = ""
    """What the variants differ in."""
    absent: tuple[tuple[str, str], ...] = ()
    """Variants that have no number, and why."""


def literal(text: str) -> str:
    """``text`` so that Plotly, which reads tags, entities and formulas, shows it as it is."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def short(text: str, longest: int = 20) -> str:
    """``text`` for an axis."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return literal(cut) or "(unnamed)"


Damage = dict[str, dict[str, Value]]
"""By expert, then by series, in percent."""
SERIES = {
    "states": "forecast from states",
    "surrogate": "forecast by one forward pass",
    "merged": "certificate: merged answers differ",
    "upper": "certificate: at most",
    "loss": "measured loss of score",
}
"""Kinds of numbers."""


def damage_of(report: Report) -> dict[str, Damage]:
    """Forecast, certified and measured, side by side, by method: the judged one first."""
    known = [*(m.method for m in report.merges), *(f.method for f in report.forecasts)]
    methods = sorted(dict.fromkeys(known), key=lambda method: method != report.judged_method)
    return {method: _damage(report, method) for method in methods}


def _damage(report: Report, method: str) -> Damage:
    merge = next((m for m in report.merges if m.method == method), None)
    merged = {expert.name: expert for expert in merge.experts} if merge else {}
    forecasts = {kind: forecasts_of(report, kind, method) for kind in ("states", "surrogate")}
    nothing = Value.missing("not_forecast")
    rows: Damage = {}
    for name in report.expert_names:
        one = merged.get(name)
        shares = {
            kind: value_of(of[name], "disagreement") if name in of else nothing
            for kind, of in forecasts.items()
        }
        shares["merged"] = value_of(one, "disagreement")
        shares["upper"] = value_of(one, "disagreement_upper")
        percents = {kind: share.times(100) for kind, share in shares.items()}
        rows[name] = percents | {"loss": loss_of(one)}
    return rows


def worst_off(damage: Damage) -> str:
    """The expert to which a merge does most."""

    def worst(name: str) -> float:
        known = (damage[name][kind].number for kind in ("merged", "loss", "surrogate", "states"))
        return next((number for number in known if number is not None), float("-inf"))

    return max(damage, key=worst)


def damage_text(value: Value) -> str:
    """For the table."""
    if value.number is None:
        return missing(value.reason)
    ends = _ends(value)
    return f"{value.number + 0.0:.1f} %{f' {span(ends, decimals=1)}' if ends else ''}"


def _ends(value: Value) -> tuple[float, float] | None:
    """Of the interval; None where one is infinite, which a plot cannot show."""
    ends = value.interval
    return ends if ends is not None and all(map(math.isfinite, ends)) else None


def damage_chart(report: Report, key: str) -> Chart | None:
    """A variant per method, or None where nothing was forecast or merged."""
    limits = {
        of: limit * kind_of(limit_on(of)).shown[0]
        for of in ("disagreement", "loss")
        if (limit := limit_of(report, limit_on(of))) is not None
    }
    variants = []
    for method, damage in damage_of(report).items():
        points = {kind: _points(damage, kind) for kind in SERIES}
        data = {
            "kind": "damage",
            "rows": [short(name) for name in damage],
            "series": [[kind, SERIES[kind], found] for kind, found in points.items() if found],
            "limits": limits,
            "height": 150 + (56 if len(damage) <= 10 else 36) * len(damage),
        }
        if data["series"]:
            variants.append(Variant(key=method, label=method, data=data))
    return Chart(key=key, toggle="Method", variants=tuple(variants)) if variants else None


def _points(damage: Damage, kind: str) -> list[dict[str, Any]]:
    """The experts that have a number of this kind, by their rows."""
    return [
        {
            "row": place,
            "value": row[kind].number,
            "ends": _ends(row[kind]) or (row[kind].number, row[kind].number),
            "text": literal(f"{name}: {SERIES[kind]} {damage_text(row[kind])}"),
        }
        for place, (name, row) in enumerate(damage.items())
        if row[kind].number is not None
    ]


def distortion_chart(report: Report, key: str) -> Chart | None:
    """The curve, or None where the hidden states were not compared."""
    if report.plan is None or not report.plan.curve:
        return None
    uniform = report.bounds.uniform_distortion if report.bounds else None
    data = {
        "kind": "distortion",
        "models": [point.models for point in report.plan.curve],
        "values": [point.distortion for point in report.plan.curve],
        "texts": [
            f"{plural(p.models, 'merged model')}: distortion {number_text(p.distortion)}"
            for p in report.plan.curve
        ],
        "uniform": uniform,
        "note": None if uniform is None else f"one model, equal shares: {number_text(uniform)}",
        "height": 320,
    }
    return Chart(key=key, variants=(Variant(key=key, label="Distortion", data=data),))
