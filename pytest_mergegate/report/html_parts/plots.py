"""What plots share: their look, and text that Plotly must not take for markup."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

if TYPE_CHECKING:
    from collections.abc import Sequence

Grid = list[list[float | None]]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One figure of a plot that can show several."""

    label: str
    how: str
    """How to read it, in a line or two."""
    alternative: str
    """What it shows, for those who cannot see it."""
    figure: go.Figure
    readings: tuple[tuple[str, ...], ...] = ()
    """Of a grid, every cell in words."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A plot with what it can be switched between."""

    key: str
    toggle: str
    """What the variants differ in."""
    variants: tuple[Variant, ...]
    order: tuple[int, ...] = ()
    """How its rows are ordered, by their places in the report."""
    absent: tuple[tuple[str, str], ...] = ()
    """Variants that have no number, and why."""


def literal(text: str) -> str:
    """``text`` so that Plotly, which reads tags and entities, shows it as it is."""
    return html.escape(text, quote=False)


def short(text: str, longest: int = 20) -> str:
    """``text`` for an axis."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return literal(cut) or "(unnamed)"


def laid_out(figure: go.Figure, *, height: int, **layout: Any) -> go.Figure:
    """``figure`` with the look of the page, whose script resolves the colours."""
    axis = {
        "fixedrange": True,
        "automargin": True,
        "gridcolor": "var(--rule)",
        "linecolor": "var(--rule)",
        "zeroline": False,
        "ticks": "",
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 12, "t": 56, "b": 8},
        paper_bgcolor="var(--surface)",
        plot_bgcolor="var(--surface)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "var(--text)"},
        hoverlabel={
            "bgcolor": "var(--raised)",
            "bordercolor": "var(--muted)",
            "font": {"color": "var(--text)"},
            "align": "left",
        },
        dragmode=False,
        **layout,
    )


def heatmap(
    values: Grid,
    readings: Sequence[Sequence[str]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float],
    title: str,
    scale: str = "sequential",
) -> go.Figure:
    """A grid of numbers with ``rows`` from top to bottom; cells without a number stay open.

    ``rows`` and ``columns`` are labels that Plotly may be shown.
    """
    trace = go.Heatmap(
        z=values,
        hovertext=[[literal(reading) for reading in row] for row in readings],
        hoverinfo="text",
        zmin=limits[0],
        zmax=limits[1],
        xgap=2 if len(columns) <= 20 else 0,
        ygap=2 if len(rows) <= 20 else 0,
        colorscale=[[k / 4, f"var(--{scale}-{k})"] for k in range(5)],
        colorbar={
            "orientation": "h",
            "thickness": 8,
            "len": 1,
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "bottom",
            "outlinewidth": 0,
            "title": {"text": title, "side": "top", "font": {"size": 12}},
        },
    )
    if len(columns) * len(rows) <= 120:
        trace.update(texttemplate="%{z:.2f}", textfont={"size": 12})
    figure = go.Figure(trace)
    height = 130 + min(max(26 * len(rows), 44 * min(len(rows), 8)), 1000)
    laid_out(figure, height=height)
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=list(columns), showgrid=False)
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=list(rows),
        showgrid=False,
        autorange="reversed",
    )
    return figure
