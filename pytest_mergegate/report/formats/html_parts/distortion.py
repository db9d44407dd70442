"""What several merged models would keep that one cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html_parts.plots import Chart, Variant, laid_out

if TYPE_CHECKING:
    from pytest_mergegate.report.plan_records import CurvePointRecord
    from pytest_mergegate.report.pool_records import BoundsRecord
    from pytest_mergegate.report.types import Report

HOW = (
    "How far the worst-off expert's hidden states must move (mean squared distance, in squared "
    "units of the hidden states) if the pool becomes one merged model, two, and so on. A step "
    "down that is large says where to split; as many models as experts is 0, no merge at all."
)


def distortion_chart(report: Report, key: str) -> Chart | None:
    """The curve, or None where the hidden states were not compared."""
    if report.plan is None or not report.plan.curve:
        return None
    curve = report.plan.curve
    figure = go.Figure(_line(curve))
    if report.bounds is not None:
        _add_uniform(figure, report.bounds)
    laid_out(figure, height=320, showlegend=False)
    figure.update_xaxes(
        title_text="merged models", tickformat="d", dtick=1 if len(curve) <= 15 else None
    )
    figure.update_yaxes(title_text="distortion (squared)", rangemode="tozero")
    said = ", ".join(f"{point.models}: {number_text(point.distortion)}" for point in curve[:8])
    more = "" if len(curve) <= 8 else ", and so on"
    variant = Variant(
        label="Distortion",
        unit="Least worst distortion, in squared units of the hidden states",
        how=HOW + (" Above 12 experts the groups are found greedily." if len(curve) > 12 else ""),
        alternative=f"Least worst distortion by number of merged models. {said}{more}.",
        figure=figure,
    )
    return Chart(key=key, toggle="", variants=(variant,))


def _line(curve: tuple[CurvePointRecord, ...]) -> go.Scatter:
    said = [
        f"{point.models} merged model{'s' * (point.models != 1)}: "
        f"distortion {number_text(point.distortion)}"
        for point in curve
    ]
    return go.Scatter(
        x=[point.models for point in curve],
        y=[point.distortion for point in curve],
        mode="lines+markers",
        line={"color": "var(--blue)", "width": 2},
        marker={"size": 9, "color": "var(--blue)"},
        hovertext=said,
        hoverinfo="text",
        cliponaxis=False,
    )


def _add_uniform(figure: go.Figure, bounds: BoundsRecord) -> None:
    figure.add_hline(
        y=bounds.uniform_distortion,
        line={"color": "var(--orange)", "width": 1.5, "dash": "dash"},
        annotation_text=f"one model, equal shares: {number_text(bounds.uniform_distortion)}",
        annotation_position="top right",
        annotation_font_color="var(--orange)",
    )
