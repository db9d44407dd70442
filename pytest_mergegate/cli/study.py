"""``mergegate study``: the paper's tables on recorded merges."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.common.statuses import Exit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.cli.parser import Commands
    from pytest_mergegate.history.study.points import Point
    from pytest_mergegate.history.study.tables import Table


def add_to(commands: Commands) -> None:
    """Declare the command."""
    study = commands.add_parser(
        "study",
        help="print the paper's tables on recorded merges",
        description="Tables 1 to 6 and Figure 1 of the paper, on the beds that ship with the "
        "package or on registries of your own.",
    )
    study.add_argument(
        "registries",
        nargs="*",
        type=Path,
        metavar="REGISTRY",
        help="registry files (default: the beds that ship)",
    )
    study.add_argument("--paper", action="store_true", help="the paper's own rows, recomputed")
    study.add_argument("--heatmap", type=Path, metavar="OUT.html", help="write Figure 1 there")
    study.add_argument("--json", type=Path, metavar="PATH", help="write the tables there")
    study.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Print them; returns the exit code. Raises UsageError and GateError."""
    if chosen.paper and (chosen.registries or chosen.heatmap):
        raise UsageError("study: --paper prints the paper's rows; it takes no registry")
    if chosen.paper:
        from pytest_mergegate.history.study.paper import paper_tables

        tables = paper_tables()
        _print(tables)
        return _write(chosen.json, {"paper": {t.key: t.to_dict() for t in tables}})
    beds = _read(chosen.registries)
    if not beds:
        complain(["no merge with a measured loss is recorded there"])
        return Exit.NOTHING_GATED
    from pytest_mergegate.history.study import report

    found: dict[str, Any] = {}
    for bed, points in beds.items():
        tables = report.tables_of(bed, points)
        _print(tables)
        sys.stdout.write(_encodable(report.figure_of(bed, points, _width())))
        found[bed] = {table.key: table.to_dict() for table in tables}
    codes = [_write(chosen.json, {"beds": found})]
    if chosen.heatmap is not None:
        codes.append(_save(chosen.heatmap, report.heatmap_of(beds)))
    return max(codes)


def _read(paths: Sequence[Path]) -> Mapping[str, Sequence[Point]]:
    """The points of every bed that has any."""
    from pytest_mergegate.common.errors import GateError
    from pytest_mergegate.history.beds import load_beds
    from pytest_mergegate.history.study.points import by_base

    found: dict[str, Sequence[Point]] = {}
    if not paths:
        for bed in load_beds():
            found |= by_base(bed.name, bed.lines)
    else:
        from pytest_mergegate.history.registry.reading import read_registry, told

        for path in paths:
            if not path.exists():
                raise GateError("there is no such registry", where=str(path))
            registry = read_registry(path)
            complain(told(registry))
            found |= by_base(path.as_posix(), registry.lines)
    return {bed: points for bed, points in found.items() if points}


def _print(tables: Sequence[Table]) -> None:
    from pytest_mergegate.history.study.tables import text

    for table in tables:
        shown = text(table, _width(), color=sys.stdout.isatty())
        sys.stdout.write(_encodable(shown) + "\n")


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, 60), 160)


def _encodable(text: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _write(path: Path | None, data: Mapping[str, Any]) -> int:
    if path is None:
        return Exit.PASSED
    text = json.dumps({"schema": "pytest-mergegate/study/1", **data}, indent=2, allow_nan=False)
    return _save(path, text + "\n")


def _save(path: Path, text: str) -> int:
    from pytest_mergegate.common.files.writing import Unwritten, write_file

    try:
        write_file(path, text)
    except Unwritten as error:
        complain([str(error)])
        return Exit.NOT_PASSED
    say([f"wrote {path}"])
    return Exit.PASSED
