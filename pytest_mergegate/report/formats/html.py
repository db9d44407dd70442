"""Reports as one HTML file that works offline: plots, tables and how to read them."""

from __future__ import annotations

import base64
import gzip
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_mergegate.report.collected import Collected

_PARTS = Path(__file__).parent / "html_parts"


def render(reports: Collected) -> str:
    """The page. The same reports give the same text. Needs the extra ``html``."""
    from pytest_mergegate.report.formats.html_parts.environment import environment
    from pytest_mergegate.report.formats.html_parts.gate import gate_view

    gates = [
        gate_view(report, reports.name(report), f"gate-{k}")
        for k, report in enumerate(reports.reports, start=1)
    ]
    plotly, plotly_hash = _plotly()
    script = (_PARTS / "templates" / "script.js").read_text("utf-8")
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            gates=gates,
            status=reports.status,
            complete=reports.complete,
            style=(_PARTS / "templates" / "style.css").read_text("utf-8"),
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
