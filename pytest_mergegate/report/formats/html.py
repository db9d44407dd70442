"""Reports as one HTML file that works offline: plots, tables and how to read them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pytest_mergegate.common.plain_text import printable
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats import numbers, reading
from pytest_mergegate.report.formats.html_parts import charts, grids, tables
from pytest_mergegate.report.formats.html_parts.gate import GateView

if TYPE_CHECKING:
    from pytest_mergegate.report.collected import Collected

_TEMPLATES = Path(__file__).parent / "html_parts" / "templates"


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
    told = (charts, grids, tables, numbers, reading)
    found.globals |= {module.__name__.rpartition(".")[2]: module for module in told}
    found.filters |= {
        "number": number_text,
        "mean_by_layer": numbers.mean_by_layer,
        "moved": tables.moved,
        "indented": partial(json.dumps, indent=2, ensure_ascii=False),
    }
    return found


def _finalized(value: object) -> object:
    """A stranger's text may neither turn the direction of writing nor hold control characters."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(printable, value.split("\n")))
