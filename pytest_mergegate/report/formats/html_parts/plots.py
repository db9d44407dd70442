"""What plots share: their look, and text that Plotly must not take for markup."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

if TYPE_CHECKING:
    from collections.abc import Sequence

Grid = list[list[float | None]]
_DARK = 0.63
"""How far into a scale the other ink becomes the legible one; both keep a contrast of 4.3."""
_COLORBAR = {
    "orientation": "h",
    "thickness": 8,
    "len": 1,
    "x": 0,
    "xanchor": "left",
    "y": 1,
    "yanchor": "bottom",
    "outlinewidth": 0,
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One figure of a plot that can show several."""

    label: str
    unit: str
    """What the numbers are, with their unit."""
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
    """``text`` so that Plotly, which reads tags, entities and formulas, shows it as it is."""
    return html.escape(text, quote=False).replace("$", "&#36;")


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
        "title_font_size": 13,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 12, "t": 24, "b": 8},
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
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float],
    scale: str,
    row_height: int = 26,
) -> go.Figure:
    """A grid of numbers with ``rows`` from top to bottom; cells without a number stay open.

    ``rows`` and ``columns`` are labels that Plotly may be shown; ``scale`` is ``sequential`` or
    ``diverging``.
    """
    trace = go.Heatmap(
        z=values,
        hoverinfo="text",  # which the page's script has from the readings
        zmin=limits[0],
        zmax=limits[1],
        xgap=2 if len(columns) <= 20 else 0,
        ygap=2 if len(rows) <= 20 else 0,
        colorscale=[[k / 4, f"var(--{scale}-{k})"] for k in range(5)],
        colorbar=_COLORBAR,
    )
    figure = go.Figure(trace)
    if len(columns) * len(rows) <= 120:
        figure.add_trace(_numbers(values, limits, scale))
    height = 90 + min(max(row_height * len(rows), 44 * min(len(rows), 8)), 1000)
    laid_out(figure, height=height, showlegend=False)
    axis = {"showgrid": False, "tickmode": "array"}
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=list(columns), **axis)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=list(rows), **axis)
    figure.update_xaxes(range=[-0.5, len(columns) - 0.5])
    return figure.update_yaxes(range=[len(rows) - 0.5, -0.5])


def _numbers(values: Grid, limits: tuple[float, float], scale: str) -> go.Scatter:
    """The numbers in their cells, each in the ink that is legible on its colour."""
    cells = [(x, y, z) for y, row in enumerate(values) for x, z in enumerate(row) if z is not None]
    low, high = limits
    places = [(z - low) / (high - low) if high > low else 0.0 for _, _, z in cells]
    depths = [abs(2 * place - 1) if scale == "diverging" else place for place in places]
    return go.Scatter(
        x=[x for x, _, _ in cells],
        y=[y for _, y, _ in cells],
        text=[f"{z + 0.0:.2f}" for _, _, z in cells],
        mode="text",
        textfont={"size": 12, "color": [f"var(--ink-{int(d > _DARK)})" for d in depths]},
        hoverinfo="skip",
        cliponaxis=False,
    )
