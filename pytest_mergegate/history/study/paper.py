"""The paper's own rows, and its tables recomputed from them.

"An Empirical Study and Theoretical Explanation on Task-Level Model-Merging Collapse" (2026).
"""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from pytest_mergegate.history.study.difficulty import fit
from pytest_mergegate.history.study.losses import Anova, anova, p_value, spread
from pytest_mergegate.history.study.tables import Cell, Table

Rows = Sequence[Mapping[str, str]]

METHODS = ("LA", "TA", "TIES", "DARE", "SLERP")
BEST_OF = METHODS[:3]


@cache
def rows_of(table: str) -> tuple[dict[str, str], ...]:
    """The rows of one file: ``table1``, ``table2``, ``table4``, ``table5``, ``tables7-10``."""
    text = (files(__package__) / "paper_rows" / f"{table}.csv").read_text("utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def paper_tables() -> tuple[Table, ...]:
    """All that its printed rows allow."""
    return _table_1(), _table_2(), _table_3(), _table_4(), _table_5(), _table_6()


def recomputed_losses(model: str, method: str) -> list[float]:
    """The losses of Table 2, percent, one a task."""
    rows = (r for r in rows_of("table2") if (r["model"], r["method"]) == (model, method))
    return [float(row["loss"]) for row in rows]


def best_losses(group: str) -> tuple[list[float], list[float]]:
    """MDS, and the best loss over LA, TA and TIES, of every task of a group of Tables 7 to 10."""
    rows = [row for row in rows_of("tables7-10") if row["group"] == group]
    return [float(r["MDS"]) for r in rows], [max(float(r[m]) for m in BEST_OF) for r in rows]


def anova_of(factor: str, methods: Sequence[str] = METHODS) -> Anova | None:
    """Of ``method`` or ``task``, over Table 2."""
    rows = [row for row in rows_of("table2") if row["method"] in methods]
    return anova([float(row["loss"]) for row in rows], [row[factor] for row in rows])


def _table_1() -> Table:
    rows: list[list[Cell]] = []
    for row in rows_of("table1"):
        again = spread(recomputed_losses(row["model"], row["method"]), digits=2)
        printed = f"-{row['loss_mean']} ± {row['loss_std']}"
        rows.append([row["model"], row["method"], printed, again])
    return Table(
        key="table_1",
        title="Table 1, the paper. Merging loss in percent, mean ± standard deviation",
        columns=dict.fromkeys(["model", "method", "printed", "from its Table 2"]),
        rows=rows,
        labels=2,
        notes=("Table 2 has the three Qwen models; the others cannot be recomputed.",),
    )


def _table_2() -> Table:
    rows: list[list[Cell]] = []
    for row in rows_of("table2"):
        scores = [float(row[key]) for key in ("finetuned", "merged")]
        again = 100 * (scores[1] / scores[0] - 1)
        rows.append([row["model"], row["method"], row["task"], *scores, float(row["loss"]), again])
    digits = dict.fromkeys(["fine-tuned", "merged", "loss, printed", "from its scores"], 1)
    return Table(
        key="table_2",
        title="Table 2, the paper. Scores and losses in percent",
        columns={"model": None, "method": None, "task": None, **digits},
        rows=rows,
        labels=3,
    )


def _table_3() -> Table:
    rows: list[list[Cell]] = []
    kinds = {"all five methods": METHODS, "without DARE": ("LA", "TA", "TIES", "SLERP")}
    for what, methods in kinds.items():
        for factor in ("method", "task"):
            found = anova_of(factor, methods)
            told: list[Cell] = [found.f, p_value(found.p)] if found else [None, None]
            rows.append([what, factor, *told])
    return Table(
        key="table_3",
        title="Table 3, the paper. One-way ANOVA, recomputed from its Table 2",
        columns={"losses": None, "factor": None, "F": 2, "p": None},
        rows=rows,
        labels=2,
        notes=(
            "The paper has the task matter and the method not; of its own losses this is so "
            "only without DARE.",
            "The p-values that its Table 3 prints are not among the data that come with this "
            "package: no column stands beside these.",
        ),
    )


def _table_4() -> Table:
    rows: list[list[Cell]] = [
        [row["metric"], *(float(row[method]) for method in METHODS)] for row in rows_of("table4")
    ]
    return Table(
        key="table_4",
        title="Table 4, the paper. p of each metric against the loss, 28 pairs, as printed",
        columns=dict.fromkeys(["metric", *METHODS], 3),
        rows=rows,
    )


def _table_5() -> Table:
    rows: list[list[Cell]] = []
    for row in rows_of("table5"):
        found = fit(*best_losses(row["group"]))
        told: list[Cell] = [found.r, f"{found.p:.4f}"] if found else [None] * 2
        rows.append([row["group"], *told, row["p"], found.rho if found else None])
    return Table(
        key="table_5",
        title="Table 5, the paper. MDS against the best loss of LA, TA and TIES, recomputed",
        columns={"group": None, "r": 3, "p": None, "p, printed": None, "Spearman": 3},
        rows=rows,
        notes=(
            "From its Tables 7 to 10 as printed. The last three TIES values of Table 7 are DARE's.",
            "Each printed p lies within what the rounding of the printed MDS and losses allows.",
        ),
    )


def _table_6() -> Table:
    return Table(
        key="table_6",
        title="Table 6, the paper. Replacing the hardest task",
        columns={},
        rows=[],
        labels=0,
        notes=("Its six printed numbers are not among the data that come with this package.",),
    )
