"""Words of strangers in Markdown: no markup, no link, no mention comes of them."""

from __future__ import annotations

import re

from pytest_mergegate.common.plain_text import clean

_MARKUP = re.compile(r"[\\`*_\[\]<|~$&]")
_LEADING = re.compile(r"^(\d*)([-+=:#>]|[.)](?=\s|$))")
_REFERENCE = re.compile(r"(?<=[@#])(?=\w)|(?<=://)(?=\S)|(?<=\bGH-)(?=\d)|(?<=\bwww)(?=\.)", re.I)
_BREAK = "&#8203;"
"""A space of no width: what it parts is neither a mention, a reference nor a link to GitHub."""


def prose(text: str) -> str:
    """``text`` as it stands, in a paragraph, a list or a cell of a table."""
    marked = _REFERENCE.sub("\u200b", clean(text))
    escaped = _MARKUP.sub(r"\\\g<0>", marked)
    return _LEADING.sub(r"\1\\\2", escaped).replace("\u200b", _BREAK)


def code(text: str) -> str:
    """``text`` as a span of code, also in a cell of a table."""
    shown = clean(text)
    fence = "`" * (_longest_run(shown) + 1)
    space = " " if "`" in shown or not shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}".replace("|", r"\|")


def code_plain(text: str) -> str:
    """``text`` as a span of code outside of tables, where a bar needs no backslash."""
    return code(text).replace(r"\|", "|")


def block(text: str) -> str:
    """``text`` as a block of code."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def details(summary: str, content: str) -> str:
    """``content``, folded away under a summary of our own words."""
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def table(rows: list[list[str]]) -> str:
    """Rows of cells that are Markdown already; the first is the header."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
