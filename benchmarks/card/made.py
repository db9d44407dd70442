"""The parts of a page that are made: each stands between two comments."""

from __future__ import annotations

import re
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_mergegate.history.study.tables import Table

START = "<!-- made by benchmarks/validation.py -->"
END = "<!-- end of what is made -->"


def with_parts(page: str, *parts: str) -> str:
    """The page with what stands between its comments made anew, in their order.

    Raises:
        ValueError: The page has another number of such places than there are parts.
    """
    kept = re.split(f"{START}.*?{END}", page, flags=re.DOTALL)
    if len(kept) != len(parts) + 1:
        raise ValueError(f"{len(parts)} parts for a page with {len(kept) - 1} places")
    made = [f"{START}\n{part}\n{END}" for part in parts]
    return "".join(chain.from_iterable(zip_longest(kept, made, fillvalue="")))


def markdown(table: Table) -> str:
    """A table of Markdown, its notes below it; no title."""
    heads = list(table.columns)
    rows = [heads, ["---"] * len(heads), *table.shown()]
    lines = ["|" + "|".join(f" {_escaped(cell)} " for cell in row) + "|" for row in rows]
    lines[1] = "|" + "---|" * len(heads)
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)])


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
