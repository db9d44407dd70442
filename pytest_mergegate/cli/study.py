"""``mergegate study``: the paper's tables on recorded merges."""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_mergegate.cli import Parser
from pytest_mergegate.cli.calibrate import registry_at
from pytest_mergegate.cli.output import encodable, is_saved
from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.history.beds import load_beds
from pytest_mergegate.history.study import difficulty, losses, pairs
from pytest_mergegate.history.study.losses import Point, by_base
from pytest_mergegate.history.study.paper import paper_tables
from pytest_mergegate.history.study.tables import Table, text


def add_to(study: Parser) -> None:
    """Declare the arguments."""
    told = "registry files (default: the beds that ship)"
    study.add_argument("registries", nargs="*", type=Path, metavar="REGISTRY", help=told)
    study.add_argument("--paper", action="store_true", help="the paper's own rows, recomputed")
    study.add_argument("--heatmap", type=Path, metavar="OUT.html", help="write Figure 1 there")
    study.add_argument("--json", type=Path, metavar="PATH", help="write the tables there")


def run(chosen: argparse.Namespace) -> int:
    """Print them; returns the exit code. Raises UsageError and GateError."""
    if chosen.paper and (chosen.registries or chosen.heatmap):
        raise UsageError("study: --paper prints the paper's rows; it takes no registry")
    found: dict[str, Any]
    written: dict[Path, str] = {}
    width = min(max(shutil.get_terminal_size().columns, 60), 160)
    if chosen.paper:
        found = {"paper": _printed(paper_tables(), width)}
    else:
        beds = _read(chosen.registries)
        if not beds:
            complain(["no merge with a measured loss is recorded there"])
            return Exit.NOTHING_GATED
        found = {"beds": {}}
        for bed, points in beds.items():
            found["beds"][bed] = _printed(_tables(bed, points), width)
            drawn = pairs.figure_text(pairs.grids_of(bed, points), width)
            sys.stdout.write(encodable(drawn))
    if chosen.json is not None:
        data = {"schema": "pytest-mergegate/study/1", **found}
        written[chosen.json] = json.dumps(data, indent=2, allow_nan=False) + "\n"
    if chosen.heatmap is not None:
        grids = [grid for bed, points in beds.items() for grid in pairs.grids_of(bed, points)]
        written[chosen.heatmap] = pairs.figure_html(grids)
    saved = [path for path, content in written.items() if is_saved(path, content)]
    say(f"wrote {path}" for path in saved)
    return Exit.PASSED if len(saved) == len(written) else Exit.NOT_PASSED


def _read(paths: Sequence[Path]) -> Mapping[str, Sequence[Point]]:
    """The points of every bed that has any."""
    found: dict[str, Sequence[Point]] = {}
    for path in paths:
        found |= by_base(path.as_posix(), registry_at(path, required=True).lines)
    for bed in () if paths else load_beds():
        found |= by_base(bed.name, bed.lines)
    return {bed: points for bed, points in found.items() if points}


def _tables(bed: str, points: Sequence[Point]) -> tuple[Table, ...]:
    """Tables 1 to 6, and the Mantel test beside the fourth."""
    correlated, groups = pairs.correlations(points), difficulty.groups_of(points)
    return (
        losses.table_1(bed, points),
        losses.table_2(bed, points),
        losses.table_3(bed, points),
        pairs.table_4(bed, correlated),
        pairs.mantel_table(bed, correlated),
        difficulty.table_5(bed, groups),
        difficulty.table_6(bed, groups),
    )


def _printed(tables: Sequence[Table], width: int) -> dict[str, Any]:
    """Print the tables; gives them back as JSON has them."""
    for table in tables:
        shown = text(table, width, color=sys.stdout.isatty())
        sys.stdout.write(encodable(shown) + "\n")
    return {table.key: table.to_dict() for table in tables}
