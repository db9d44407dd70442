"""Plots as data, which the page's script draws: what merging does, and what more models keep."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html_parts.tables import missing, scale_of
from pytest_mergegate.report.formats.numbers import (
    Estimate,
    disagreement_of,
    forecasts_of,
    loss_of,
    span,
)
from pytest_mergegate.report.formats.reading import limit_of, plural
from pytest_mergegate.verdict.budgets import limit_on

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


Damage = dict[str, dict[str, Estimate]]
"""By expert, then by series, in percent."""
SERIES = {
    "states": "forecast from states",
    "surrogate": "forecast by one forward pass",
    "merged": "certificate: merged answers differ",
    "upper": "certificate: at most",
    "loss": "measured loss of score",
}
"""Kinds of numbers."""


def damage_methods(report: Report) -> list[str]:
    """The methods that anything is known of, the judged one first."""
    known = [*(m.method for m in report.merges), *(f.method for f in report.forecasts)]
    return sorted(dict.fromkeys(known), key=lambda method: method != report.judged_method)


def damage_of(report: Report, method: str) -> Damage:
    """Forecast, certified and measured, side by side."""
    merge = next((m for m in report.merges if m.method == method), None)
    merged = {expert.name: expert for expert in merge.experts} if merge else {}
    forecasts = {kind: forecasts_of(report, kind, method) for kind in ("states", "surrogate")}
    nothing = Estimate(reason="not_forecast")
    rows: Damage = {}
    for name in report.expert_names:
        differs = disagreement_of(merged.get(name))
        shares = {kind: of.get(name, nothing) for kind, of in forecasts.items()}
        shares |= {"merged": differs, "upper": Estimate(value=differs.upper)}
        percents = {kind: estimate.times(100) for kind, estimate in shares.items()}
        rows[name] = percents | {"loss": loss_of(merged.get(name))}
    return rows


def worst_off(damage: Damage) -> str:
    """The expert to which a merge does most."""

    def worst(name: str) -> float:
        known = (damage[name][kind].value for kind in ("merged", "loss", "surrogate", "states"))
        return next((value for value in known if value is not None), float("-inf"))

    return max(damage, key=worst)


def damage_text(estimate: Estimate) -> str:
    """For the table."""
    if estimate.value is None:
        return missing(estimate.reason)
    interval = f" {span(_ends(estimate), decimals=1)}" if _ends(estimate) else ""
    return f"{estimate.value + 0.0:.1f} %{interval}"


def _ends(estimate: Estimate) -> tuple[float, float] | None:
    """Of the interval; None where one is infinite, which a plot cannot show."""
    low, high = estimate.interval or (None, None)
    return None if low is None or high is None else (low, high)


def damage_chart(report: Report, key: str) -> Chart | None:
    """A variant per method, or None where nothing was forecast or merged."""
    variants = []
    limits = {of: limit_of(report, limit_on(of)) for of in ("disagreement", "loss")}
    for method in damage_methods(report):
        damage = damage_of(report, method)
        points = {kind: _points(damage, kind) for kind in SERIES}
        data = {
            "kind": "damage",
            "rows": [short(name) for name in damage],
            "series": [[kind, SERIES[kind], found] for kind, found in points.items() if found],
            "limits": {
                of: limit * scale_of(limit_on(of))[0]
                for of, limit in limits.items()
                if limit is not None
            },
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
            "value": row[kind].value,
            "ends": _ends(row[kind]) or (row[kind].value, row[kind].value),
            "text": literal(f"{name}: {SERIES[kind]} {damage_text(row[kind])}"),
        }
        for place, (name, row) in enumerate(damage.items())
        if row[kind].value is not None
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
