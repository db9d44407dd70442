"""What `docs/choosing-a-budget.md` takes from the card and the bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from card.alarms import DEFAULT, UPPER, default_alarms
from card.beds import count_text
from card.exact import exact_text
from card.inputs import inputs_text
from card.made import markdown, with_parts
from card.merges import short_lines
from card.ranks import rank
from card.scores import scores_of
from pytest_mergegate.history.calibration.observations import COLLAPSE
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from card.beds import Evidence

BUDGETS = {
    "disagreement": "`max_disagreement`",
    "surrogate": "`max_disagreement` at stage `hidden`",
    "mds": "`max_mds`",
    "magnitude_change_ratio": "`max_magnitude_change_ratio`",
    "sign_change_ratio": "`max_sign_change_ratio`",
    "conflicting_magnitude_ratio": "`max_conflicting_magnitude_ratio`",
}


def with_evidence(page: str, found: Evidence) -> str:
    """The page with its two parts made anew."""
    return with_parts(page, evidence_text(found), inputs_text())


def evidence_text(found: Evidence) -> str:
    """The scores by how well they rank, and what the default limit does."""
    rows: list[list[Any]] = []
    for score in scores_of(found.every):
        values = [rank(score, points) for points in found.beds.values()]
        rows.append([score.label, BUDGETS.get(score.field, "none; shown"), score.needs, *values])
    columns: dict[str, int | None] = {"score": None, "budget": None, "takes": None}
    table = Table(
        key="evidence", title="", columns=columns | dict.fromkeys(found.beds, 3), rows=rows
    )
    alarms, bound = (default_alarms(found.every, *score) for score in ((), (UPPER,)))
    lost = f"{-COLLAPSE:.0f} %"
    return "\n".join(
        [
            "From [the validation card](validation.md), which one command repeats:",
            f"{count_text(found)}.",
            f"A point is one expert under one merge; it *collapsed* if it lost more than {lost}",
            "of its score. AUROC is the chance that a collapsed point gets a worse score than one",
            "that was kept: 0.5 is a coin, 1 is perfect.",
            "",
            markdown(table),
            "",
            f"At a disagreement of {DEFAULT} and more on 64 inputs {1 - alarms.missed:.1%} of the",
            f"collapses are caught, at {alarms.false_rate:.1%} false alarms; with the bound on it",
            f"held to the same limit, {1 - bound.missed:.1%} at {bound.false_rate:.1%}.",
            *short_lines(found),
            *[f"\n{told}" for told in [exact_text(found)] if told],
        ]
    )
