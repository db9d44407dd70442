"""Every statement that a gate makes with a confidence, and how often it breaks it.

    python benchmarks/promises.py                 simulate all of it: a quarter of an hour
    python benchmarks/promises.py --quick         a few settings, 200 gates each
    python benchmarks/promises.py --only NAME     the statements of that name
    python benchmarks/promises.py --write         record the table that docs/validation.md shows

Outcomes are drawn (answers that differ, scores, distances, recorded merges), the gate's own code
makes values and verdicts of them. It ends with 1 where a statement is broken more often than its
nominal, beyond chance: by the lower end of an exact interval, at a level that is shared among all
rows (Bonferroni), so that a table of kept promises raises an alarm once in twenty at most.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from promised import (
    collapses,
    difficulty,
    disagreements,
    distances,
    gains,
    losses,
    past_merges,
    unmerged,
)
from promised.rows import Row, Table, rows_above

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promised.rows import Scenario

RECORD = Path(__file__).with_name("promises.json")
GATES = 2000
QUICK = 200
PARTS = (disagreements, distances, losses, gains, difficulty, past_merges, collapses, unmerged)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, tell, and say whether every promise is kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [statement.name for part in PARTS for statement in part.STATEMENTS]
    parser.add_argument("--quick", action="store_true", help="a few settings, few gates")
    parser.add_argument("--gates", type=int, metavar="N", help=f"of every setting ({GATES})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=names, nargs="+", metavar="NAME", help=", ".join(names))
    parser.add_argument("--write", action="store_true", help=f"record it in {RECORD.name}")
    chosen = parser.parse_args(arguments)
    if chosen.write and (chosen.quick or chosen.only):
        parser.error("a part of the table is not recorded: leave out --quick and --only")
    gates = chosen.gates or (QUICK if chosen.quick else GATES)
    table = simulated(
        scenarios(quick=chosen.quick, only=chosen.only), seed=chosen.seed, gates=gates
    )
    if chosen.write:
        table.write(RECORD)
        print(f"written: {RECORD}")
    return _told(table)


def scenarios(*, quick: bool = False, only: Sequence[str] | None = None) -> list[Scenario]:
    """What is simulated."""
    every = [scenario for part in PARTS for scenario in part.scenarios()]
    chosen = [s for s in every if s.quick or not quick]
    return [s for s in chosen if only is None or s.statement.name in only]


def simulated(chosen: Iterable[Scenario], *, seed: int, gates: int) -> Table:
    """The table of these scenarios; each row is printed as it is found."""
    print(f"seed {seed}, at least {gates} gates of every setting")
    found: list[Row] = []
    for scenario in chosen:
        start = time.perf_counter()
        rows = scenario.rows(seed, gates)
        spent = time.perf_counter() - start
        for row in rows:
            print(f"{_line(row)}  ({spent:.1f} s)", flush=True)
        found += rows
    told = {row.statement for row in found}
    statements = tuple(s for part in PARTS for s in part.STATEMENTS if s.name in told)
    return Table(seed=seed, gates=gates, statements=statements, rows=tuple(found))


def _line(row: Row) -> str:
    low, high = row.interval
    nominal = "no nominal" if row.nominal is None else f"nominal {row.nominal:.3g}"
    return (
        f"{row.statement}: {row.setting}: {nominal}, actual {row.actual:.4f} "
        f"({low:.4f} to {high:.4f}) of {row.gates}"
    )


def _told(table: Table) -> int:
    above = rows_above(table.rows)
    promised = sum(row.nominal is not None for row in table.rows)
    print(f"\n{len(table.rows)} rows, {promised} with a nominal, {len(above)} above it")
    texts = {statement.name: statement.text for statement in table.statements}
    for row in above:
        print(f"ABOVE ITS NOMINAL: {texts[row.statement]}\n  {_line(row)}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
