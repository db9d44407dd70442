"""What the site adds to its configuration: a page for every finding in the navigation, the glossary
below every page, and which pages the search prefers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

_BOOSTS = {"faq.md": 4, "findings/": 0.4, "reference/metrics.md": 0.3, "validation.md": 0.3}
"""Questions are asked in the words of the FAQ; lists that name everything answer nothing."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of findings below the table of them."""
    pages = sorted(path.name for path in Path(config.docs_dir, "findings").glob("*.md"))
    section = next(entry["Findings"] for entry in config.nav or [] if "Findings" in entry)
    section.append({"Every code": [f"findings/{name}" for name in pages]})
    config.copyright = f'<a href="{config.site_url}glossary/">Glossary</a> · {config.copyright}'
    return config


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Weigh a page for the search."""
    for begins, boost in _BOOSTS.items():
        if page.file.src_uri.startswith(begins):
            page.meta["search"] = {"boost": boost}
    return markdown
