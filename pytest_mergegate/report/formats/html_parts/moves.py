"""What moved against the baseline, with units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mergegate.common.wording import distinct, number_text

if TYPE_CHECKING:
    from pytest_mergegate.report.types import ChangeRecord

_QUANTITIES = {
    "mds": ("MDS", 1.0, ""),
    "hidden_similarity": ("hidden similarity, 0 to 1", 1.0, ""),
    "distance": ("distance of hidden states", 1.0, ""),
    "disagreement": ("disagreement", 100.0, " %"),
    "loss": ("loss of score", -1.0, " %"),
}
"""Name, factor and unit; a loss is shown positive where the merge is worse."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One number then and now; None where there was none."""

    about: str
    quantity: str
    before: str | None
    after: str | None
    change: str | None


def moved(record: ChangeRecord) -> Moved:
    """``record`` for people, with as many digits as it takes to show that it moved."""
    name, factor, unit = _QUANTITIES[record.quantity]
    before, after = (None if n is None else n * factor + 0.0 for n in (record.before, record.after))
    change = None
    texts: tuple[str | None, str | None]
    if before is None or after is None:
        texts = _each(before, after)
    else:
        texts = distinct(before, after)
        points = " percentage points" if unit else ""
        change = f"{'+' if after > before else ''}{number_text(after - before)}{points}"
    about = f"{record.expert} – {record.other}" if record.other else record.expert
    return Moved(
        about=f"{about} under {record.method}" if record.method else about,
        quantity=name,
        before=texts[0] and texts[0] + unit,
        after=texts[1] and texts[1] + unit,
        change=change,
    )


def _each(before: float | None, after: float | None) -> tuple[str | None, str | None]:
    """Both as text, as far as they are there."""
    return (
        None if before is None else number_text(before),
        None if after is None else number_text(after),
    )
