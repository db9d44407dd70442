"""Tables of plain text, for the subcommands that print any."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.cells import cell_len

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> Iterator[str]:
    """The lines of a table, each column as wide as its widest cell; a row may end early.

    With ``numbers``, all columns but the first are flush right.
    """
    widths = [max(map(cell_len, column)) for column in zip_longest(*rows, fillvalue="")]
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=False)):
            blank = " " * (width - cell_len(cell))
            cells.append(blank + cell if numbers and place else cell + blank)
        yield "  ".join(cells).rstrip()
