"""The plots of one gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.report.formats.html_parts.damage import damage_chart
from pytest_mergegate.report.formats.html_parts.distortion import distortion_chart
from pytest_mergegate.report.formats.html_parts.layers import layers_chart
from pytest_mergegate.report.formats.html_parts.similarity import similarity_chart

if TYPE_CHECKING:
    from pytest_mergegate.report.formats.html_parts.plots import Chart
    from pytest_mergegate.report.types import Report


def charts(report: Report, key: str) -> dict[str, Chart]:
    """Those that there are numbers for, by name."""
    found = {
        "similarity": similarity_chart(report, f"{key}-similarity-plot"),
        "layers": layers_chart(report, f"{key}-layers-plot"),
        "damage": damage_chart(report, f"{key}-damage-plot"),
        "distortion": distortion_chart(report, f"{key}-distortion-plot"),
    }
    return {name: chart for name, chart in found.items() if chart is not None}
