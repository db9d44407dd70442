"""What of the paper shows on the beds, and what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from card.made import markdown
from pytest_mergegate.history.study import difficulty, losses, pairs, paper
from pytest_mergegate.history.study.losses import largest_pool
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from card.beds import Evidence
    from pytest_mergegate.history.study.pairs import Correlation

    Correlated = Mapping[str, Mapping[tuple[str, str], Correlation]]
LEVEL = 0.05
WEIGHTS = [metric for metric in pairs.METRICS if metric != "mean_distance"]
FEWEST = 6
"""Experts of a group whose correlation is counted."""


class Replication:
    """The paper's analyses on all beds; computed once."""

    def __init__(self, found: Evidence) -> None:
        self.found = found
        self.correlated: Correlated = {
            bed: pairs.correlations(points) for bed, points in found.beds.items()
        }
        self.groups = {bed: difficulty.groups_of(points) for bed, points in found.beds.items()}

    def claims(self) -> list[tuple[str, str, str, str]]:
        """Claim, the paper's numbers, ours, and whether it shows."""
        return [
            self._anova(),
            self._weights(),
            self._distance(),
            self._mds(),
            self._replacing(),
        ]

    def _anova(self) -> tuple[str, str, str, str]:
        told, holds = [], []
        for bed, points in self.found.beds.items():
            pool = largest_pool(points)
            values = [point.loss for point in pool]
            method = losses.anova(values, [point.method for point in pool])
            task = losses.anova(values, [point.name for point in pool])
            if method and task:
                told.append(
                    f"{bed}: method p {losses.p_value(method.p)}, task p {losses.p_value(task.p)}"
                )
                holds.append(task.p < LEVEL <= method.p)
        five, four = (paper.anova_of("method", m) for m in (paper.METHODS, _no_dare()))
        task = paper.anova_of("task")
        assert five
        assert four
        assert task
        theirs = (
            f"from its Table 2: method p {losses.p_value(five.p)}, without DARE "
            f"{losses.p_value(four.p)}, task p {losses.p_value(task.p)}"
        )
        claim = "The task decides the loss, the method does not (Table 3)"
        return claim, theirs, "; ".join(told), _verdict(holds)

    def _weights(self) -> tuple[str, str, str, str]:
        rows = paper.rows_of("table4")[:-1]
        printed = [float(row[method]) < LEVEL for row in rows for method in paper.METHODS]
        told, holds = [], []
        for bed, correlated in self.correlated.items():
            of = [one for (_, metric), one in correlated.items() if metric in WEIGHTS]
            if of:
                low = sum(one.mantel_p < LEVEL for one in of)
                told.append(f"{bed}: {low} of {len(of)} have p < {LEVEL} (Mantel)")
                holds.append(low <= LEVEL * len(of))
        claim = "Conflicts of the weights do not go with the loss (Table 4)"
        theirs = f"{sum(printed)} of {len(printed)} have p < {LEVEL}"
        return claim, theirs, "; ".join(told), _verdict(holds)

    def _distance(self) -> tuple[str, str, str, str]:
        row = paper.rows_of("table4")[-1]
        printed = [float(row[method]) < LEVEL for method in paper.METHODS]
        told, holds = [], []
        for bed, correlated in self.correlated.items():
            of = [one for (_, metric), one in correlated.items() if metric == "mean_distance"]
            if of:
                low = sum(one.mantel_p < LEVEL and one.r < 0 for one in of)
                told.append(f"{bed}: {low} of {len(of)} methods (Mantel p < {LEVEL}, r < 0)")
                holds.append(low > len(of) / 2)
        claim = "The distance of the hidden states does (Table 4)"
        theirs = f"{sum(printed)} of {len(printed)} methods have p < {LEVEL}"
        return claim, theirs, "; ".join(told), _verdict(holds)

    def _mds(self) -> tuple[str, str, str, str]:
        names = dict.fromkeys(row["group"] for row in paper.rows_of("tables7-10"))
        fits = [difficulty.fit(*paper.best_losses(name)) for name in names]
        printed = [fit is not None and fit.p < LEVEL and fit.r < 0 for fit in fits]
        told, holds = [], []
        for bed, groups in self.groups.items():
            found = [difficulty.fit_group(g) for g in groups if len(g.experts) >= FEWEST]
            of = [fit for fit in found if fit is not None]
            if of:
                low = sum(fit.p < LEVEL and fit.r < 0 for fit in of)
                falls = sum(fit.r < 0 for fit in of)
                told.append(
                    f"{bed}: {low} of {len(of)} groups of {FEWEST} and more, r < 0 in {falls}"
                )
                holds.append(low > len(of) / 2)
        claim = "Within a group, MDS goes with the best loss (Table 5)"
        theirs = f"{sum(printed)} of {len(printed)} groups have p < {LEVEL} and r < 0"
        return claim, theirs, "; ".join(told), _verdict(holds)

    def _replacing(self) -> tuple[str, str, str, str]:
        told, holds = [], []
        for bed, groups in self.groups.items():
            of = difficulty.replacements(groups)
            if of:
                better = sum(one.after > one.before for one in of)
                worse = sum(one.after < one.before for one in of)
                told.append(
                    f"{bed}: the mean loss got milder in {better} of {len(of)} merges, worse in "
                    f"{worse}"
                )
                holds.append(better > len(of) / 2)
        claim = "Replacing the task of the highest MDS makes the group merge better (Table 6)"
        ours = "; ".join(told) or "no two pools differ in just that expert"
        return claim, "its rows are not part of this repository", ours, _verdict(holds)


def _no_dare() -> Sequence[str]:
    return [method for method in paper.METHODS if method != "DARE"]


def _verdict(holds: Sequence[bool]) -> str:
    if not holds:
        return "cannot be said"
    if all(holds):
        return "yes"
    return f"on {sum(holds)} of {len(holds)} beds" if any(holds) else "no"


def replication_part(replication: Replication) -> str:
    """The claims, then the tables behind them."""
    rows: list[list[Any]] = [list(claim) for claim in replication.claims()]
    heads = dict.fromkeys(["claim", "the paper", "here", "shows here"])
    claims = Table(key="claims", title="", columns=heads, rows=rows)
    return "\n\n".join(
        [
            "## What replicates of the paper",
            'From "An Empirical Study and Theoretical Explanation on Task-Level Model-Merging '
            'Collapse" (2026). `mergegate study` prints these tables, Tables 2 and 6 and Figure 1; '
            "`mergegate study --paper` the paper's own rows. A count is of p below "
            f"{LEVEL}; where nothing goes with anything one in twenty is.",
            markdown(claims),
            *(_tables(replication, bed) for bed in replication.found.beds),
        ]
    )


def _tables(replication: Replication, bed: str) -> str:
    points, groups = replication.found.beds[bed], replication.groups[bed]
    correlated = replication.correlated[bed]
    largest = [group for group in groups if len(group.experts) >= FEWEST]
    tables = [
        losses.table_1(bed, points),
        losses.table_3(bed, points),
        pairs.table_4(bed, correlated),
        pairs.mantel_table(bed, correlated),
        difficulty.table_5(bed, largest),
    ]
    if difficulty.replacements(groups):
        tables.append(difficulty.table_6(bed, groups))
    return "\n\n".join(f"### {table.title}\n\n{markdown(table)}" for table in tables if table.rows)
