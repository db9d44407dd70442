"""What subcommands read, print and write: reports, tables of plain text, and files."""

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from pydantic import ValidationError
from rich.cells import cell_len, set_cell_size

from pytest_mergegate.common.errors import GateError, UsageError, did_you_mean
from pytest_mergegate.common.files.reading import read_own
from pytest_mergegate.common.files.writing import Unwritten, write_file
from pytest_mergegate.common.plain_text import complain
from pytest_mergegate.report.formats.json import read_reports
from pytest_mergegate.report.types import Collected


def reports_in(path: Path) -> Collected:
    """What a JSON report holds. Raises GateError for anything else."""
    try:
        return read_reports(read_own(path).decode(), root=Path.cwd())
    except OSError as error:
        raise GateError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise GateError(
            f"{path} is no report of pytest-mergegate ({_why(error)})",
            fix="write one with mergegate check --report json:FILE",
        ) from None


def _why(error: Exception) -> str:
    """The first thing that is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = f"{where}: {first['msg']}" if where else first["msg"]
    elif isinstance(error, RecursionError):
        said = "nested too deeply"
    elif isinstance(error, UnicodeDecodeError):
        said = "not UTF-8"
    else:
        said = str(error)
    return " ".join(said.split())[:200]


def methods_among(asked: Sequence[str], known: Sequence[str]) -> list[str]:
    """The methods, of those that are ``known`` by their labels, that are ``asked`` for by label or
    by name alone; all of them where none is. Raises UsageError."""
    called = {label: dict.fromkeys((label, label.partition(" ")[0])) for label in known}
    names = dict.fromkeys(name for both in called.values() for name in both)
    for method in asked:
        if method not in names:
            fix = did_you_mean(method, names, "methods")
            raise UsageError(f"--method: there is no merge by {method!r}", fix=fix)
    return [label for label, both in called.items() if not asked or any(m in both for m in asked)]


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
