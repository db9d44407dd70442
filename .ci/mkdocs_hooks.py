"""What the site adds to the pages: every finding in the navigation, and links out of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

SOURCE = "https://github.com/pytest-mergegate/pytest-mergegate/blob/main/"
_OUTSIDE = re.compile(r"\]\(((?:\.\./)+)([^)]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of findings below the table of them."""
    pages = sorted(path.name for path in Path(config.docs_dir, "findings").glob("*.md"))
    section = next(entry["Findings"] for entry in config.nav or [] if "Findings" in entry)
    section += [f"findings/{name}" for name in pages]
    return config


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files beside docs/, which work in the repository, to the repository."""
    folder = Path(config.docs_dir, page.file.src_uri).parent

    def absolute(link: re.Match[str]) -> str:
        target = (folder / (link[1] + link[2])).resolve()
        root = Path(config.docs_dir).parent.resolve()
        if target.is_relative_to(config.docs_dir) or not target.is_relative_to(root):
            return link[0]
        return f"]({SOURCE}{target.relative_to(root).as_posix()})"

    return _OUTSIDE.sub(absolute, markdown)
