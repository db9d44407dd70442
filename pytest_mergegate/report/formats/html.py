"""Reports as one HTML file that works offline: plots, tables and how to read them."""

import base64
import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pytest_mergegate.common.plain_text import printable_lines, quoted_lines
from pytest_mergegate.common.wording import number_text, under
from pytest_mergegate.report.formats import numbers, reading
from pytest_mergegate.report.formats.advice import Advice, CauseGroup, advice, cause_groups
from pytest_mergegate.report.formats.cases import worst_first
from pytest_mergegate.report.formats.html_parts import changed, charts, tables
from pytest_mergegate.report.formats.html_parts.changed import CaseGroup, case_groups
from pytest_mergegate.report.formats.html_parts.charts import Chart
from pytest_mergegate.report.formats.html_parts.tables import Judged, judged
from pytest_mergegate.report.formats.reading import NO_VERDICT, Concern, plural, status_of
from pytest_mergegate.report.types import Collected, Report

_TEMPLATES = Path(__file__).parent / "html_parts" / "templates"


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
        failing = f"experts {reading.beyond(report.verdicts)}"
        told = (("fail", failing), ("inconclusive", "undecided"))
        said = [f"{worst.count(s)} of {total} {words}" for s, words in told if s in worst]
        where = f" {under(report.judged_method)}" if report.judged_method else ""
        return (", ".join(said) or f"All {total} experts within budget") + where

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
        return worst_first(self.report)

    @cached_property
    def causes(self) -> list[CauseGroup]:
        """Why experts are over budget, the reason of most of them first."""
        return cause_groups(self.report)

    @cached_property
    def advice(self) -> Advice | None:
        """The best thing to do; None where nothing was found."""
        return advice(self.report, self.name) if self.report.status != "pass" else None

    @cached_property
    def cases(self) -> list[CaseGroup]:
        """Inputs that were answered differently, by expert and merge."""
        return case_groups(self.report)

    @cached_property
    def charts(self) -> dict[str, Chart]:
        """The plots that there are numbers for, by name."""
        makers = {
            "similarity": charts.similarity_chart,
            "layers": charts.layers_chart,
            "damage": charts.damage_chart,
            "distortion": charts.distortion_chart,
        }
        found = {n: make(self.report, f"{self.key}-{n}-plot") for n, make in makers.items()}
        return {name: chart for name, chart in found.items() if chart is not None}


def render(reports: Collected) -> str:
    """The page. The same reports give the same text. Needs the extra ``html``."""
    plotly, plotly_hash = _plotly()
    script = (_TEMPLATES / "script.js").read_text("utf-8")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            gates=[
                GateView(report, reports.name(report), f"gate-{k}")
                for k, report in enumerate(reports.reports, start=1)
            ],
            status=reports.status,
            complete=reports.complete,
            style=(_TEMPLATES / "style.css").read_text("utf-8"),
            script=script,
            script_hashes=(_hash(script), plotly_hash),
            plotly=plotly,
        )
    )


@lru_cache(maxsize=1)
def _plotly() -> tuple[str, str]:
    """plotly.js, compressed, and its hash: it is 4.8 MB as it comes, and a third of that so."""
    from plotly.offline import get_plotlyjs

    code = get_plotlyjs()
    packed = gzip.compress(code.encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii"), _hash(code)


def _hash(code: str) -> str:
    """What the page's content security policy knows a script by."""
    digest = hashlib.sha256(code.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _environment() -> Environment:
    """The templates, with every value escaped and every unknown name an error."""
    found = Environment(
        loader=PackageLoader("pytest_mergegate.report.formats.html_parts"),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = (changed, charts, tables, numbers, reading)
    found.globals |= {module.__name__.rpartition(".")[2]: module for module in told}
    found.filters |= {
        "number": number_text,
        "mean_by_layer": numbers.mean_by_layer,
        "moved": tables.moved,
        "quoted": _quoted,
        "indented": partial(json.dumps, indent=2, ensure_ascii=False),
    }
    return found


def _quoted(text: str) -> Markup:
    """What a model says, word for word."""
    return escape(quoted_lines(text))


def _finalized(value: object) -> object:
    """A stranger's text may neither turn the direction of writing nor hold control characters."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return printable_lines(value)
