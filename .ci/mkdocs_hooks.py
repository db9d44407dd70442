"""What the site adds to its configuration: a page for every finding in the navigation, and the
glossary below every page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of findings below the table of them."""
    pages = sorted(path.name for path in Path(config.docs_dir, "findings").glob("*.md"))
    section = next(entry["Findings"] for entry in config.nav or [] if "Findings" in entry)
    section.append({"Every code": [f"findings/{name}" for name in pages]})
    config.copyright = f'<a href="{config.site_url}glossary/">Glossary</a> · {config.copyright}'
    return config
