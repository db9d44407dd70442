"""Jinja, set up so that nothing from a report is taken for markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pytest_mergegate.common.plain_text import printable
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html_parts import (
    damage,
    figures,
    layers,
    moves,
    similarity,
    tables,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.report.formats.html_parts.plots import Chart
    from pytest_mergegate.report.pool_records import TensorRecord


def environment() -> Environment:
    """The templates, with every value escaped and every unknown name an error."""
    found = Environment(
        loader=PackageLoader("pytest_mergegate.report.formats.html_parts"),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "number": number_text,
        "percent": figures.percent,
        "chart_data": _chart_data,
        "by_layer": lambda key, report: layers.mean_by_layer(report, key),
        "worst_tensors": _worst_tensors,
        "moved": moves.moved,
    }
    found.globals |= {
        "MARKS": figures.MARKS,
        "SOURCES": figures.SOURCES,
        "QUANTITIES": similarity.QUANTITIES,
        "LAYER_QUANTITIES": layers.LAYER_QUANTITIES,
        "SERIES": damage.SERIES,
        "missing": figures.missing,
        "shown_merge": tables.shown_merge,
        "damage_methods": damage.damage_methods,
        "damage_readings": damage.damage_readings,
        "limit_note": damage.limit_note,
    }
    return found


def _finalized(value: object) -> object:
    """A stranger's text may neither turn the direction of writing nor hold control characters."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(printable, value.split("\n")))


def _chart_data(chart: Chart) -> list[dict[str, object]]:
    """What the page's script draws from; ``tojson`` keeps it inside its element."""
    return [
        {"figure": variant.figure.to_plotly_json(), "readings": variant.readings}
        for variant in chart.variants
    ]


def _worst_tensors(tensors: Sequence[TensorRecord]) -> list[TensorRecord]:
    """Those with the largest conflicting magnitude first, those without one last."""
    return sorted(tensors, key=lambda tensor: -(tensor.conflicting_magnitude_ratio or 0.0))
