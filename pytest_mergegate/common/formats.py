"""The formats of reports, as options and the report read them off one table."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Format:
    """What is known of a format before its module, which has its name, is imported."""

    ending: str
    """Of its files."""
    needs: tuple[str, ...] = ()
    """Modules beside the package's own dependencies; the extra that brings them has its name."""


FORMATS = {
    "json": Format(ending="json"),
    "html": Format(ending="html", needs=("jinja2", "plotly")),
    "markdown": Format(ending="md"),
    "sarif": Format(ending="sarif"),
}
"""The formats that ``--mergegate-report`` and ``mergegate report`` write, each by the module of its
name in ``report/formats/``."""
