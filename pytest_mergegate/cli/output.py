"""What subcommands print and write: tables of plain text, and files."""

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from rich.cells import cell_len, set_cell_size

from pytest_mergegate.common.files.writing import Unwritten, write_file
from pytest_mergegate.common.plain_text import complain


def aligned(
    rows: Sequence[Sequence[str]], *, numbers: bool = False, label: int | None = None
) -> Iterator[str]:
    """The lines of a table, each column as wide as its widest cell; a row may end early.

    With ``numbers``, all columns but the first are flush right; the first is cut to ``label``.
    """
    if label is not None:
        rows = [(_cut(row[0], label), *row[1:]) for row in rows]
    widths = [max(map(cell_len, column)) for column in zip_longest(*rows, fillvalue="")]
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=False)):
            blank = " " * (width - cell_len(cell))
            cells.append(blank + cell if numbers and place else cell + blank)
        yield "  ".join(cells).rstrip()


def _cut(cell: str, width: int) -> str:
    return cell if cell_len(cell) <= width else f"{set_cell_size(cell, width - 1)}…"


def encodable(text: str) -> str:
    """``text`` in what standard output can show."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def is_saved(path: Path, text: str) -> bool:
    """Write a file; where that is not possible, say why."""
    try:
        write_file(path, text)
    except Unwritten as error:
        complain([str(error)])
        return False
    return True
