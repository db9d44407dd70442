"""What a merge does to every expert: forecast, certified and measured, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html_parts.figures import missing, scale_of, span
from pytest_mergegate.report.formats.html_parts.plots import (
    Chart,
    Variant,
    laid_out,
    literal,
    short,
)
from pytest_mergegate.report.formats.html_parts.tables import NOT_RUN

if TYPE_CHECKING:
    from pytest_mergegate.common.records import Interval
    from pytest_mergegate.report.types import ForecastRecord, MergedExpertRecord, Report

HOW = (
    "Further right is worse; a line is a confidence interval. Forecasts need no merge. The "
    "certificate is how often the real merge answers the expert's own inputs differently, and its "
    "bound is what that share is at most, at the certificate's confidence. The measured loss is "
    "the share of the expert's score that is gone, where there are targets."
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One number of one expert, in percent."""

    value: float | None
    ends: tuple[float, float] | None = None
    reason: str = ""
    """Why there is no number."""

    @property
    def text(self) -> str:
        """For the table."""
        if self.value is None:
            return missing(self.reason)
        interval = f" {span(self.ends, decimals=1)}" if self.ends else ""
        return f"{self.value + 0.0:.1f} %{interval}"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One kind of number, and how it is drawn."""

    label: str
    symbol: str
    colour: str
    offset: float
    """From the middle of an expert's row."""


SERIES = {
    "states": Series(
        label="forecast from states", symbol="diamond-open", colour="var(--grey)", offset=-0.27
    ),
    "surrogate": Series(
        label="forecast by one forward pass",
        symbol="circle-open",
        colour="var(--green)",
        offset=-0.09,
    ),
    "merged": Series(
        label="certificate: merged answers differ",
        symbol="circle",
        colour="var(--blue)",
        offset=0.09,
    ),
    "upper": Series(
        label="certificate: at most", symbol="line-ns-open", colour="var(--blue)", offset=0.09
    ),
    "loss": Series(
        label="measured loss of score", symbol="square", colour="var(--orange)", offset=0.27
    ),
}


LIMITS = {"max_disagreement": ("var(--blue)", "dash"), "max_loss": ("var(--orange)", "dot")}
"""How the budgets that are drawn are told apart."""


def damage_methods(report: Report) -> tuple[str, ...]:
    """The methods that anything is known of, the judged one first."""
    known = [*(m.method for m in report.merges), *(f.method for f in report.forecasts)]
    first = report.judged_method
    return tuple(dict.fromkeys([*([first] if first in known and first else []), *known]))


def damage_readings(report: Report, method: str) -> dict[str, dict[str, Reading]]:
    """By expert, then by series."""
    merge = next((m for m in report.merges if m.method == method), None)
    merged = {expert.name: expert for expert in merge.experts} if merge else {}
    forecasts = {(f.kind, f.expert): f for f in report.forecasts if f.method == method}
    return {
        name: {
            "states": _forecast(forecasts.get(("states", name))),
            "surrogate": _forecast(forecasts.get(("surrogate", name))),
            **_measured(merged.get(name)),
        }
        for name in report.expert_names
    }


def damage_chart(report: Report, key: str) -> Chart | None:
    """A variant per method, or None where nothing was forecast or merged."""
    by_method = {method: damage_readings(report, method) for method in damage_methods(report)}
    variants = [
        _variant(report, method, readings)
        for method, readings in by_method.items()
        if any(_has(kind, readings) for kind in SERIES)
    ]
    return Chart(key=key, toggle="Method", variants=tuple(variants)) if variants else None


def _forecast(forecast: ForecastRecord | None) -> Reading:
    if forecast is None:
        return Reading(value=None, reason="not_forecast")
    if forecast.disagreement is None:
        return Reading(value=None, reason=forecast.disagreement_reason or NOT_RUN)
    ends = _ends(forecast.disagreement_interval, 100)
    return Reading(value=100 * forecast.disagreement, ends=ends)


def _measured(merged: MergedExpertRecord | None) -> dict[str, Reading]:
    if merged is None:
        return {name: Reading(value=None, reason=NOT_RUN) for name in ("merged", "upper", "loss")}
    ends = _ends(merged.disagreement_interval, 100)
    return {
        "merged": Reading(value=100 * merged.disagreement, ends=ends),
        "upper": Reading(value=100 * merged.disagreement_upper),
        "loss": Reading(
            value=None if merged.loss is None else 0.0 - merged.loss,
            ends=_ends(merged.loss_interval, -1),
            reason=merged.loss_reason or NOT_RUN,
        ),
    }


def _ends(interval: Interval | None, scale: float) -> tuple[float, float] | None:
    """Both ends in percent; None where one is infinite, which a plot cannot show."""
    if interval is None or interval[0] is None or interval[1] is None:
        return None
    low, high = sorted((interval[0] * scale + 0.0, interval[1] * scale + 0.0))
    return low, high


def _variant(report: Report, method: str, readings: dict[str, dict[str, Reading]]) -> Variant:
    names = list(readings)
    figure = go.Figure([_trace(kind, readings) for kind in SERIES if _has(kind, readings)])
    for budget, (colour, dash) in LIMITS.items():
        _add_limit(figure, report, budget, {"color": colour, "width": 1.5, "dash": dash})
    row = 56 if len(names) <= 10 else 36
    laid_out(
        figure,
        height=150 + row * len(names),
        legend={"orientation": "h", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom"},
    )
    figure.update_xaxes(title_text="% of answers, or of the score", ticksuffix=" %")
    figure.update_xaxes(range=_range(readings))
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[short(name) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
    )
    worst = max(names, key=lambda name: _worst(readings[name]))
    return Variant(
        label=method,
        unit="Percent of the expert's answers that change, or of its score that is lost",
        how=HOW,
        alternative=f"Under {method}, {len(names)} experts. The worst off is {worst}: "
        + "; ".join(f"{SERIES[kind].label} {readings[worst][kind].text}" for kind in SERIES)
        + ". The table below has every number.",
        figure=figure,
    )


def _has(kind: str, readings: dict[str, dict[str, Reading]]) -> bool:
    return any(row[kind].value is not None for row in readings.values())


def _worst(row: dict[str, Reading]) -> float:
    known = [row[kind].value for kind in ("merged", "loss", "surrogate", "states")]
    return next((value for value in known if value is not None), float("-inf"))


def _trace(kind: str, readings: dict[str, dict[str, Reading]]) -> go.Scatter:
    series = SERIES[kind]
    points = [(k, n, row[kind]) for k, (n, row) in enumerate(readings.items())]
    known = [(k, n, r, r.value) for k, n, r in points if r.value is not None]
    ends = [r.ends or (value, value) for _, _, r, value in known]
    bars: dict[str, Any] = {
        "type": "data",
        "symmetric": False,
        "array": [max(high - at[3], 0) for (_, high), at in zip(ends, known, strict=True)],
        "arrayminus": [max(at[3] - low, 0) for (low, _), at in zip(ends, known, strict=True)],
        "thickness": 1.5,
        "width": 0,
        "color": series.colour,
        "visible": any(r.ends for _, _, r, _ in known),
    }
    return go.Scatter(
        name=series.label,
        x=[value for *_, value in known],
        y=[k + series.offset for k, *_ in known],
        error_x=bars,
        mode="markers",
        marker={
            "symbol": series.symbol,
            "size": 11,
            "color": series.colour,
            "line": {"width": 2, "color": series.colour},
        },
        hovertext=[literal(f"{n}: {series.label} {r.text}") for _, n, r, _ in known],
        hoverinfo="text",
        cliponaxis=False,
    )


def _add_limit(figure: go.Figure, report: Report, budget: str, line: dict[str, Any]) -> None:
    limit = next((v.limit for v in report.verdicts if v.budget == budget), None)
    if limit is None:
        return
    figure.add_vline(x=limit * scale_of(budget)[0], line=line)


def _range(readings: dict[str, dict[str, Reading]]) -> list[float]:
    ends = [0.0, 100.0]
    for row in readings.values():
        for reading in row.values():
            ends += [reading.value] if reading.value is not None else []
            ends += reading.ends or ()
    return [min(ends) - 3, max(ends) + 3]


def limit_note(report: Report) -> str:
    """What the vertical lines are."""
    limits = {v.budget: v.limit for v in report.verdicts if v.limit is not None}
    said = []
    if "max_disagreement" in limits:
        said.append(f"dashed {number_text(100 * limits['max_disagreement'])} % of the answers")
    if "max_loss" in limits:
        said.append(f"dotted {number_text(limits['max_loss'])} % of the score")
    return f"The vertical lines are the limits: {', '.join(said)}." if said else ""
