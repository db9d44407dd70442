"""What a gate promises, and how often it breaks it, from the recorded simulation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from promised.rows import Table as Simulated
from promised.rows import rows_above

from card.made import markdown
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from promised.rows import Row, Statement

RECORD = Path(__file__).parents[1] / "promises.json"
COMMAND = "python benchmarks/promises.py"
SHOWN = 6
"""Settings of each statement."""


def promises_part(path: Path = RECORD) -> str:
    """The statements, the worst of their settings, and all settings."""
    table = Simulated.read(path)
    above = rows_above(table.rows)
    return "\n\n".join(
        [
            "## What a gate promises: nominal against actual",
            _how(table),
            markdown(_summary(table, above)),
            *_told(table, above),
            "### Setting by setting",
            f"Of each statement the settings that come nearest to the nominal, or over it, {SHOWN} "
            "at most; all of them are in `benchmarks/promises.json`.",
            *(_detail(table, statement, above) for statement in table.statements),
        ]
    )


def _how(table: Simulated) -> str:
    promised = sum(row.nominal is not None for row in table.rows)
    return (
        "Outcomes are drawn (answers that differ, scores, distances, recorded merges), and the "
        "gate's own code makes values and verdicts of them. The truth is put where a promise is "
        "nearest to being broken, a hair over the limit. *Nominal* is how often a statement may be "
        "wrong, *actual* how often it was, with Clopper-Pearson's 95 % interval. "
        f"{len(table.rows)} settings, at least {table.gates:,} gates of each; seed {table.seed}; "
        f"`{COMMAND}` draws them again. A setting is *above its nominal* where the lower end of an "
        f"interval is whose error is shared among all {promised} that have a nominal (Bonferroni): "
        "intervals at 95 % alone would be wrong of some by chance."
    )


def _summary(table: Simulated, above: list[Row]) -> Table:
    heads = ["it is broken where", "settings", "above", "nominal", "actual at its worst", "there"]
    rows: list[list[Any]] = []
    for statement in table.statements:
        own = table.of(statement.name)
        worst = max(own, key=_near)
        count = sum(row in above for row in own)
        cells = [len(own), f"**{count}**" if count else "0", *_cells(worst), worst.setting]
        rows.append([statement.text, *cells])
    return Table(key="promises", title="", columns=dict.fromkeys(heads), rows=rows)


def _told(table: Simulated, above: list[Row]) -> list[str]:
    if not above:
        return ["No setting is above its nominal."]
    lines = [f"- {row.setting}: {_told_of(row)}" for row in above]
    return ["Above their nominal, and so no promise there:", "\n".join(lines)]


def _told_of(row: Row) -> str:
    nominal, actual = _cells(row)
    return f"nominal {nominal}, actual {actual} (`{row.statement}`)"


def _detail(table: Simulated, statement: Statement, above: list[Row]) -> str:
    heads = ["setting", "nominal", "actual", "gates"]
    own = table.of(statement.name)
    if not any(row.broken for row in own):
        return f"`{statement.name}`: never broken (settings: {len(own)})."
    shown = sorted(own, key=_near, reverse=True)[:SHOWN]
    rows: list[list[Any]] = [[_marked(row, above), *_cells(row), row.gates] for row in shown]
    found = Table(key=statement.name, title="", columns=dict.fromkeys(heads), rows=rows)
    return f"`{statement.name}`\n\n{markdown(found)}"


def _near(row: Row) -> float:
    """How near a row is to its nominal, or how far over it; those without one come last."""
    return row.actual - (2.0 if row.nominal is None else row.nominal)


def _marked(row: Row, above: list[Row]) -> str:
    return f"**{row.setting}**" if row in above else row.setting


def _cells(row: Row) -> list[str]:
    low, high = row.interval
    nominal = "none" if row.nominal is None else f"{row.nominal:.1%}"
    return [nominal, f"{row.actual:.2%} ({low:.2%} to {high:.2%})"]
