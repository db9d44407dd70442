"""One gate of the page: what its sections say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_mergegate.report.formats.html_parts import charts, grids
from pytest_mergegate.report.formats.html_parts.tables import Judged, judged
from pytest_mergegate.report.formats.reading import NO_VERDICT, Concern, concerns, plural, status_of

if TYPE_CHECKING:
    from pytest_mergegate.report.formats.html_parts.charts import Chart
    from pytest_mergegate.report.types import Report


@dataclass(frozen=True)
class GateView:
    """What the templates are given of one gate."""

    report: Report
    name: str
    key: str
    """Begins every id of its part of the page."""

    @cached_property
    def headline(self) -> str:
        """The verdict in one sentence."""
        report = self.report
        if report.status == "error":
            count = sum(finding.severity == "error" for finding in report.findings)
            return f"{plural(count, 'problem')}: nothing was judged"
        if not report.verdicts:
            return NO_VERDICT.capitalize()
        total = len(report.experts)
        worst = [status_of(report, name) for name in {v.expert for v in report.verdicts}]
        told = (("fail", "experts over budget"), ("inconclusive", "undecided"))
        said = [f"{worst.count(s)} of {total} {words}" for s, words in told if s in worst]
        under = f" under {report.judged_method}" if report.judged_method else ""
        return (", ".join(said) or f"All {total} experts within budget") + under

    @cached_property
    def verdicts(self) -> list[Judged]:
        """All of them, in words."""
        return [judged(verdict) for verdict in self.report.verdicts]

    @cached_property
    def limits(self) -> dict[str, str]:
        """By budget."""
        return {verdict.record.budget: verdict.limit for verdict in reversed(self.verdicts)}

    @cached_property
    def concerns(self) -> list[Concern]:
        """Experts over budget first, then the undecided, each in the gate's order."""
        found = concerns(self.report)
        return sorted(found, key=lambda c: all(v.status != "fail" for v in c.verdicts))

    @cached_property
    def charts(self) -> dict[str, Chart]:
        """The plots that there are numbers for, by name."""
        makers = {
            "similarity": grids.similarity_chart,
            "layers": grids.layers_chart,
            "damage": charts.damage_chart,
            "distortion": charts.distortion_chart,
        }
        found = {n: make(self.report, f"{self.key}-{n}-plot") for n, make in makers.items()}
        return {name: chart for name, chart in found.items() if chart is not None}
